-- name: items_tagged
-- The items that have one of some tags: (thread, namespace, channel, number).
SELECT i.thread_id, i.checkpoint_ns, i.channel, i.seq
FROM json_each(:tags) AS t CROSS JOIN {items} AS i
WHERE i.tag = t.value
