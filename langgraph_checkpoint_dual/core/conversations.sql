-- What a view of messages reads; all else that it needs are the queries of items.

-- name: spot
-- A checkpoint, and how its values are stored.
SELECT checkpoint_id, slots FROM {checkpoints}
{where}
ORDER BY checkpoint_id DESC LIMIT 1

-- name: spot.thread_id
thread_id = :thread_id
-- name: spot.checkpoint_ns
checkpoint_ns = :checkpoint_ns
-- name: spot.checkpoint_id
checkpoint_id = :checkpoint_id
