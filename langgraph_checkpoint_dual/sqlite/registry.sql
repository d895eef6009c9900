-- name: threads.metadata
langgraph_matches(t.run_metadata, t.metadata, :needle, :nulls)

-- name: set_thread_metadata
UPDATE {threads} SET metadata = :metadata WHERE thread_id = :thread_id
-- name: threads.among
t.thread_id IN (SELECT value FROM json_each(:among))
