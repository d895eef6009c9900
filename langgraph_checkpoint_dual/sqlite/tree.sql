-- name: bodies
SELECT checkpoint_id, checkpoint FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
    AND checkpoint_id IN (SELECT value FROM json_each(:checkpoint_ids))

-- name: delete_namespaces
DELETE FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns IN (SELECT value FROM json_each(:namespaces));
DELETE FROM {writes}
WHERE thread_id = :thread_id AND checkpoint_ns IN (SELECT value FROM json_each(:namespaces));
DELETE FROM {items}
WHERE thread_id = :thread_id AND checkpoint_ns IN (SELECT value FROM json_each(:namespaces));

-- name: delete_older
-- All but some of the checkpoints up to one, and all writes that belong to none of those that stay.
DELETE FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id <= :last
    AND checkpoint_id NOT IN (SELECT value FROM json_each(:kept));
DELETE FROM {writes}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id <= :last
    AND checkpoint_id NOT IN (SELECT value FROM json_each(:kept));
