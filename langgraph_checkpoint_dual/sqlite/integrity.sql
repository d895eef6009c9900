-- name: reseal_items
-- Items with other MACs.
UPDATE {items} SET data = ?8
WHERE thread_id = ?1 AND checkpoint_ns = ?2 AND channel = ?3 AND seq = ?4
