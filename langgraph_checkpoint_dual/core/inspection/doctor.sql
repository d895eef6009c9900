-- What the doctor looks at. Tables are read in the order of their keys, from the last key of the page before.

-- name: doctor_checkpoints
SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, c.slots,
    CAST(c.metadata AS TEXT), c.metadata_exact, c.run_id
FROM {checkpoints} AS c
{where}
ORDER BY c.thread_id, c.checkpoint_ns, c.checkpoint_id
LIMIT :limit
-- name: doctor_checkpoints.after
(c.thread_id, c.checkpoint_ns, c.checkpoint_id) > (:after_0, :after_1, :after_2)
-- name: doctor_checkpoints.thread_id
c.thread_id = :thread_id

-- name: doctor_items
SELECT thread_id, checkpoint_ns, channel, seq, length(data) FROM {items}
{where}
ORDER BY thread_id, checkpoint_ns, channel, seq
LIMIT :limit
-- name: doctor_items data
SELECT thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data FROM {items}
{where}
-- name: doctor_items.after
(thread_id, checkpoint_ns, channel, seq) > (:after_0, :after_1, :after_2, :after_3)
-- name: doctor_items.between
(thread_id, checkpoint_ns, channel, seq) >= (:first_0, :first_1, :first_2, :first_3)
AND (thread_id, checkpoint_ns, channel, seq) <= (:last_0, :last_1, :last_2, :last_3)
-- name: doctor_items.thread_id
thread_id = :thread_id

-- name: doctor_tag
-- Another item may have got the number meanwhile.
UPDATE {items} SET tag = :tag
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND channel = :channel AND seq = :seq
    AND checksum = :checksum

-- name: doctor_writes
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, length(data) FROM {writes}
{where}
ORDER BY thread_id, checkpoint_ns, checkpoint_id, task_id, idx
LIMIT :limit
-- name: doctor_writes data
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data FROM {writes}
{where}
-- name: doctor_writes.after
(thread_id, checkpoint_ns, checkpoint_id, task_id, idx) > (:after_0, :after_1, :after_2, :after_3, :after_4)
-- name: doctor_writes.between
(thread_id, checkpoint_ns, checkpoint_id, task_id, idx) >= (:first_0, :first_1, :first_2, :first_3, :first_4)
AND (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) <= (:last_0, :last_1, :last_2, :last_3, :last_4)
-- name: doctor_writes.thread_id
thread_id = :thread_id
-- name: doctor_writes.of_checkpoint
thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: doctor_counted
SELECT (SELECT count(*) FROM {checkpoints}), (SELECT count(*) FROM {items}), (SELECT count(*) FROM {writes})

-- name: doctor_lost_parents
SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id
FROM {checkpoints} AS c
{where}
ORDER BY c.thread_id, c.checkpoint_ns, c.checkpoint_id
LIMIT :limit
-- name: doctor_lost_parents.lost
c.parent_checkpoint_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM {checkpoints} AS p WHERE p.thread_id = c.thread_id AND p.checkpoint_ns = c.checkpoint_ns
        AND p.checkpoint_id = c.parent_checkpoint_id
)
-- name: doctor_lost_parents.after
(c.thread_id, c.checkpoint_ns, c.checkpoint_id) > (:after_0, :after_1, :after_2)
-- name: doctor_lost_parents.thread_id
c.thread_id = :thread_id

-- name: doctor_orphans
-- Pending writes whose checkpoint is not there, by checkpoint.
SELECT w.thread_id, w.checkpoint_ns, w.checkpoint_id, count(*), sum(length(w.data))
FROM {writes} AS w
{where}
GROUP BY w.thread_id, w.checkpoint_ns, w.checkpoint_id
ORDER BY w.thread_id, w.checkpoint_ns, w.checkpoint_id
LIMIT :limit
-- name: doctor_orphans.orphaned
NOT EXISTS (
    SELECT 1 FROM {checkpoints} AS c WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns
        AND c.checkpoint_id = w.checkpoint_id
)
-- name: doctor_orphans.after
(w.thread_id, w.checkpoint_ns, w.checkpoint_id) > (:after_0, :after_1, :after_2)
-- name: doctor_orphans.thread_id
w.thread_id = :thread_id

-- name: doctor_unlisted
-- Threads that have checkpoints of the root namespace, but no row in the registry.
SELECT c.thread_id, min(c.checkpoint_id), max(c.checkpoint_id) FROM {checkpoints} AS c
{where}
GROUP BY c.thread_id
ORDER BY c.thread_id
LIMIT :limit
-- name: doctor_unlisted.unlisted
c.checkpoint_ns = '' AND NOT EXISTS (SELECT 1 FROM {threads} AS t WHERE t.thread_id = c.thread_id)
-- name: doctor_unlisted.after
c.thread_id > :after_0
-- name: doctor_unlisted.thread_id
c.thread_id = :thread_id

-- name: doctor_listed
SELECT t.thread_id, t.updated_at, CAST(t.metadata AS TEXT), CAST(t.run_metadata AS TEXT), (
    SELECT max(c.checkpoint_id) FROM {checkpoints} AS c WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
), t.created_at, t.user_id, t.title
FROM {threads} AS t
{where}
ORDER BY t.thread_id
LIMIT :limit
-- name: doctor_listed.after
t.thread_id > :after_0
-- name: doctor_listed.thread_id
t.thread_id = :thread_id

-- name: doctor_namespace
SELECT checkpoint_id, parent_checkpoint_id, CAST(metadata AS TEXT), slots FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns

-- name: doctor_delete_writes
DELETE FROM {writes}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id AND NOT EXISTS (
    SELECT 1 FROM {checkpoints}
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id
)

-- name: doctor_touch_thread
UPDATE {threads} SET updated_at = :at WHERE thread_id = :thread_id AND updated_at < :at
