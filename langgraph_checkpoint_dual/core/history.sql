-- name: older
-- A checkpoint and those of its namespace with a lower id, highest first: most of them are its ancestors.
SELECT checkpoint_id, parent_checkpoint_id, slots FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id <= :checkpoint_id
ORDER BY checkpoint_id DESC LIMIT :limit
