-- name: subtree
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, CAST(metadata AS TEXT), slots
FROM {checkpoints} WHERE thread_id = :thread_id AND checkpoint_ns >= :low AND checkpoint_ns < :high
