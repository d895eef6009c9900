-- How a thread came about, from narrow rows.

-- name: lineage
SELECT c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.run_id, CAST(c.metadata AS TEXT), (
    SELECT min(w.channel) FROM {writes} AS w
    WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns AND w.checkpoint_id = c.checkpoint_id
        AND w.channel IN ('__error__', '__interrupt__')
)
FROM {checkpoints} AS c
{where}
ORDER BY c.checkpoint_id DESC
LIMIT :limit

-- name: lineage.thread_id
c.thread_id = :thread_id
-- name: lineage.checkpoint_ns
c.checkpoint_ns = :checkpoint_ns
-- name: lineage.before
c.checkpoint_id < :before
