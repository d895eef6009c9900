-- The queries that are the same on every database. Names in braces are the tables, `:name` is an argument.
-- Rows of checkpoints and of writes have one shape, so that one query returns both:
-- (is a write, thread, namespace, checkpoint, parent | task, metadata | task path, run | channel, idx, checkpoint | value, slots, exact metadata)

-- name: page
-- A page of checkpoints, latest first, and their pending writes.
WITH page AS (
    SELECT * FROM {checkpoints}
    {where}
    ORDER BY checkpoint_id DESC, thread_id DESC, checkpoint_ns DESC
    LIMIT :limit
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, CAST(metadata AS TEXT), run_id, 0, checkpoint, slots,
    metadata_exact
FROM page
UNION ALL
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, w.data, NULL, NULL
FROM page CROSS JOIN {writes} AS w
WHERE w.thread_id = page.thread_id AND w.checkpoint_ns = page.checkpoint_ns AND w.checkpoint_id = page.checkpoint_id

-- name: page.thread_id
thread_id = :thread_id
-- name: page.checkpoint_ns
checkpoint_ns = :checkpoint_ns
-- name: page.checkpoint_id
checkpoint_id = :checkpoint_id
-- name: page.before
checkpoint_id < :before
-- name: page.after
-- What follows the last row of the page before.
(checkpoint_id, thread_id, checkpoint_ns) < (:after_id, :after_thread, :after_ns)

-- name: slots
SELECT slots FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: checkpoint
SELECT parent_checkpoint_id, checkpoint FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: own_checkpoint
SELECT checkpoint, slots, metadata_exact FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: delete_checkpoint
-- Without its writes.
DELETE FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: deleted_since
-- Whether this checkpoint was of a thread that was deleted since.
SELECT 1 FROM {tombstones} AS t
WHERE t.thread_id = :thread_id AND t.checkpoint_id >= :checkpoint_id AND NOT EXISTS (
    SELECT 1 FROM {checkpoints} AS c
    WHERE c.thread_id = :thread_id AND c.checkpoint_ns = :checkpoint_ns AND c.checkpoint_id = :checkpoint_id
)

-- name: delete_early_writes
-- The writes of a checkpoint that is not stored.
DELETE FROM {writes} WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id
    AND NOT EXISTS (
        SELECT 1 FROM {checkpoints} AS c
        WHERE c.thread_id = :thread_id AND c.checkpoint_ns = :checkpoint_ns AND c.checkpoint_id = :checkpoint_id
    )

-- name: head
SELECT checkpoint_id FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
ORDER BY checkpoint_id DESC LIMIT 1

-- name: ancestors
-- The chain of parents of a checkpoint, without itself.
-- The whole key comes from the chain, so that the key's index is the only plan that there is.
WITH RECURSIVE chain (depth, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, slots) AS (
    SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, slots FROM {checkpoints}
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id
    UNION ALL
    SELECT chain.depth + 1, c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.slots
    FROM chain JOIN {checkpoints} AS c ON c.thread_id = chain.thread_id AND c.checkpoint_ns = chain.checkpoint_ns
        AND c.checkpoint_id = chain.parent_checkpoint_id
    WHERE chain.depth < :limit
)
SELECT depth, checkpoint_id, slots FROM chain WHERE depth > 0

-- name: tree
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, CAST(metadata AS TEXT), slots
FROM {checkpoints} WHERE thread_id = :thread_id

-- name: any_of_thread
SELECT 1 FROM {checkpoints} WHERE thread_id = :thread_id LIMIT 1

-- name: hang
UPDATE {checkpoints} SET parent_checkpoint_id = :parent_checkpoint_id, checkpoint = :checkpoint
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: slots_of_namespace
SELECT checkpoint_id, slots FROM {checkpoints} WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns

-- name: item_numbers
SELECT channel, seq FROM {items} WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
