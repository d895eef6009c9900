-- name: threads.metadata
(t.run_metadata || t.metadata) @> CAST(:needle AS jsonb) AND NOT EXISTS (
    SELECT FROM jsonb_array_elements_text(CAST(:nulls AS jsonb)) AS n (key)
    WHERE coalesce((t.run_metadata || t.metadata) -> n.key, 'null') <> 'null'
)

-- name: set_thread_metadata
UPDATE {threads} SET metadata = CAST(:metadata AS jsonb) WHERE thread_id = :thread_id
-- name: threads.among
t.thread_id IN (SELECT jsonb_array_elements_text(CAST(:among AS jsonb)))
