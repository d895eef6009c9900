-- name: writes_of_chain
-- The pending writes of some checkpoints of a namespace to some channels, and (2, ..., how many of these are there, ...).
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, CAST(w.data AS BLOB), NULL, NULL
FROM json_each(:checkpoint_ids) AS c CROSS JOIN {writes} AS w
WHERE w.thread_id = :thread_id AND w.checkpoint_ns = :checkpoint_ns AND w.checkpoint_id = c.value
    AND w.channel IN (SELECT value FROM json_each(:channels))
UNION ALL
SELECT 2, NULL, NULL, NULL, NULL, NULL, NULL, count(*), NULL, NULL, NULL
FROM json_each(:checkpoint_ids) AS c CROSS JOIN {checkpoints} AS k
WHERE k.thread_id = :thread_id AND k.checkpoint_ns = :checkpoint_ns AND k.checkpoint_id = c.value
