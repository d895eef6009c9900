-- name: checkpoints_up_to
-- How many checkpoints a thread has, counted up to a limit.
SELECT count(*) FROM (SELECT 1 FROM {checkpoints} WHERE thread_id = :thread_id LIMIT :limit) AS found
