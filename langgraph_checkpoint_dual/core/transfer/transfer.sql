-- Transfers: rows as they are. What is compared first is narrow, and what is fetched then is bounded in bytes.

-- name: thread_ids
-- The next threads that have anything at all, in the order of their ids.
SELECT thread_id FROM (
    SELECT DISTINCT thread_id FROM {checkpoints} WHERE thread_id > :after ORDER BY thread_id LIMIT :limit
) AS c
UNION SELECT thread_id FROM (
    SELECT DISTINCT thread_id FROM {writes} WHERE thread_id > :after ORDER BY thread_id LIMIT :limit
) AS w
UNION SELECT thread_id FROM (
    SELECT thread_id FROM {threads} WHERE thread_id > :after ORDER BY thread_id LIMIT :limit
) AS t
ORDER BY thread_id LIMIT :limit

-- name: narrow.after
(r.checkpoint_ns, r.checkpoint_id) > (:after_ns, :after_id)
-- name: narrow.upto
(r.checkpoint_ns, r.checkpoint_id) <= (:upto_ns, :upto_id)

-- name: boundary
-- The checkpoint that ends a span of a long thread.
SELECT checkpoint_ns, checkpoint_id FROM {checkpoints}
WHERE thread_id = :thread_id AND (checkpoint_ns, checkpoint_id) > (:after_ns, :after_id)
ORDER BY checkpoint_ns, checkpoint_id LIMIT 1 OFFSET :count

-- name: was_deleted
SELECT 1 FROM {tombstones} WHERE thread_id = :thread_id
