-- name: threads.not_exempt
NOT langgraph_matches(t.run_metadata, t.metadata, :exempt_needle, :exempt_nulls)

-- name: extent_of_thread
-- How many checkpoints a thread has, and about how many bytes of it are stored.
SELECT count(*), coalesce(sum(length(checkpoint) + length(slots) + length(metadata)
        + coalesce(length(metadata_exact), 0)), 0)
    + (SELECT coalesce(sum(length(data)), 0) FROM {items} WHERE thread_id = :thread_id)
    + (SELECT coalesce(sum(length(data)), 0) FROM {writes} WHERE thread_id = :thread_id)
FROM {checkpoints} WHERE thread_id = :thread_id

-- name: size_of_checkpoints
-- About how many bytes some checkpoints of a namespace and their writes take.
SELECT coalesce(sum(length(checkpoint) + length(slots) + length(metadata) + coalesce(length(metadata_exact), 0)), 0) + (
    SELECT coalesce(sum(length(data)), 0) FROM {writes}
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
        AND checkpoint_id IN (SELECT value FROM json_each(:checkpoint_ids))
)
FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
    AND checkpoint_id IN (SELECT value FROM json_each(:checkpoint_ids))

-- name: size_of_items
SELECT coalesce(sum(length(data)), 0) FROM {items}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
    AND (channel, seq) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:items))
