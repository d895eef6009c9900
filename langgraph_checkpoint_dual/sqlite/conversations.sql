-- name: items_tagged
-- The numbers of a channel's items that have one of some tags.
SELECT DISTINCT i.seq
FROM json_each(:tags) AS t CROSS JOIN {items} AS i
WHERE i.thread_id = :thread_id AND i.checkpoint_ns = :checkpoint_ns AND i.channel = :channel AND i.tag = t.value
