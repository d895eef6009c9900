-- name: threads.not_exempt
NOT ((t.run_metadata || t.metadata) @> CAST(:exempt_needle AS jsonb) AND NOT EXISTS (
    SELECT FROM jsonb_array_elements_text(CAST(:exempt_nulls AS jsonb)) AS n (key)
    WHERE coalesce((t.run_metadata || t.metadata) -> n.key, 'null') <> 'null'
))

-- name: extent_of_thread
-- How many checkpoints a thread has, and about how many bytes of it are stored.
SELECT count(*), CAST(coalesce(sum(length(checkpoint) + length(slots) + length(CAST(metadata AS TEXT))
        + coalesce(length(metadata_exact), 0)), 0)
    + (SELECT coalesce(sum(length(data)), 0) FROM {items} WHERE thread_id = :thread_id)
    + (SELECT coalesce(sum(length(data)), 0) FROM {writes} WHERE thread_id = :thread_id) AS bigint)
FROM {checkpoints} WHERE thread_id = :thread_id

-- name: size_of_checkpoints
-- About how many bytes some checkpoints of a namespace and their writes take.
WITH ids AS (
    SELECT jsonb_array_elements_text(CAST(:checkpoint_ids AS jsonb)) AS id
)
SELECT CAST(coalesce(sum(length(checkpoint) + length(slots) + length(CAST(metadata AS TEXT))
    + coalesce(length(metadata_exact), 0)), 0) + (
    SELECT coalesce(sum(length(data)), 0) FROM {writes}
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id IN (SELECT id FROM ids)
) AS bigint)
FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id IN (SELECT id FROM ids)

-- name: size_of_items
SELECT CAST(coalesce(sum(length(i.data)), 0) AS bigint)
FROM jsonb_array_elements(CAST(:items AS jsonb)) AS g (item) JOIN {items} AS i
    ON i.channel = g.item ->> 0 AND i.seq = CAST(g.item ->> 1 AS bigint)
WHERE i.thread_id = :thread_id AND i.checkpoint_ns = :checkpoint_ns
