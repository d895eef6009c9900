-- name: bodies
SELECT checkpoint_id, checkpoint FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
    AND checkpoint_id IN (SELECT jsonb_array_elements_text(CAST(:checkpoint_ids AS jsonb)))

-- name: delete_namespaces
WITH gone AS (
    SELECT jsonb_array_elements_text(CAST(:namespaces AS jsonb)) AS ns
), w AS (
    DELETE FROM {writes} WHERE thread_id = :thread_id AND checkpoint_ns IN (SELECT ns FROM gone)
), i AS (
    DELETE FROM {items} WHERE thread_id = :thread_id AND checkpoint_ns IN (SELECT ns FROM gone)
)
DELETE FROM {checkpoints} WHERE thread_id = :thread_id AND checkpoint_ns IN (SELECT ns FROM gone)

-- name: delete_older
-- All but some of the checkpoints up to one, and all writes that belong to none of those that stay.
WITH kept AS (
    SELECT jsonb_array_elements_text(CAST(:kept AS jsonb)) AS id
), w AS (
    DELETE FROM {writes}
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id <= :last
        AND checkpoint_id NOT IN (SELECT id FROM kept)
)
DELETE FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id <= :last
    AND checkpoint_id NOT IN (SELECT id FROM kept)
