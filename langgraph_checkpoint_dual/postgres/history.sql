-- name: writes_of_chain
-- The pending writes of some checkpoints of a namespace to some channels, and (2, ..., how many of these are there, ...).
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, w.data,
    NULL::bytea, NULL::bytea
FROM jsonb_array_elements_text(CAST(:checkpoint_ids AS jsonb)) AS c (id)
CROSS JOIN LATERAL (
    SELECT * FROM {writes}
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = c.id
    OFFSET 0
) AS w
WHERE w.channel IN (SELECT jsonb_array_elements_text(CAST(:channels AS jsonb)))
UNION ALL
SELECT 2, NULL, NULL, NULL, NULL, NULL, NULL, count(*), NULL, NULL, NULL
FROM jsonb_array_elements_text(CAST(:checkpoint_ids AS jsonb)) AS c (id)
CROSS JOIN LATERAL (
    SELECT 1 FROM {checkpoints}
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = c.id
    OFFSET 0
) AS k
