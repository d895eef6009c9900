-- name: thread_sizes
-- How many rows some threads have, those that have any.
SELECT t.thread_id, (SELECT count(*) FROM {checkpoints} AS r WHERE r.thread_id = t.thread_id)
    + (SELECT count(*) FROM {writes} AS r WHERE r.thread_id = t.thread_id)
FROM (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)) COLLATE "C" AS thread_id) AS t
WHERE EXISTS (SELECT FROM {checkpoints} AS r WHERE r.thread_id = t.thread_id)
    OR EXISTS (SELECT FROM {writes} AS r WHERE r.thread_id = t.thread_id)

-- name: narrow checkpoints
-- Checksums and sizes of the checkpoints of some threads.
SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, substr(r.checkpoint, 1, 4), substr(r.metadata_exact, 1, 4),
    r.slots, octet_length(r.checkpoint) + pg_column_size(r.metadata) + coalesce(octet_length(r.metadata_exact), 0)
FROM (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)) COLLATE "C" AS thread_id OFFSET 0) AS t
JOIN {checkpoints} AS r ON r.thread_id = t.thread_id {where}

-- name: narrow writes
-- Checksums and sizes of the writes of some threads.
SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.task_id, r.idx, substr(r.data, 1, 4), octet_length(r.data)
FROM (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)) COLLATE "C" AS thread_id OFFSET 0) AS t
JOIN {writes} AS r ON r.thread_id = t.thread_id {where}

-- name: item_sizes
-- The sizes of the items of some ranges of numbers: (place in the list of ranges, bytes).
SELECT g.place - 1, i.bytes
FROM jsonb_array_elements(CAST(:ranges AS jsonb)) WITH ORDINALITY AS g (range, place)
CROSS JOIN LATERAL (
    SELECT CAST(sum(octet_length(data)) AS bigint) AS bytes FROM {items}
    WHERE thread_id = g.range ->> 0 AND checkpoint_ns = g.range ->> 1 AND channel = g.range ->> 2
        AND seq BETWEEN CAST(g.range ->> 3 AS bigint) AND CAST(g.range ->> 4 AS bigint)
    OFFSET 0
) AS i
WHERE i.bytes IS NOT NULL

-- name: rows_of_checkpoints
SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.parent_checkpoint_id, r.run_id, r.checkpoint, r.slots,
    CAST(r.metadata AS TEXT), r.metadata_exact
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS k (key)
CROSS JOIN LATERAL (
    SELECT * FROM {checkpoints}
    WHERE thread_id = k.key ->> 0 AND checkpoint_ns = k.key ->> 1 AND checkpoint_id = k.key ->> 2
    OFFSET 0
) AS r

-- name: rows_of_writes
SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.task_id, r.idx, r.task_path, r.channel, r.data
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS k (key)
CROSS JOIN LATERAL (
    SELECT * FROM {writes}
    WHERE thread_id = k.key ->> 0 AND checkpoint_ns = k.key ->> 1 AND checkpoint_id = k.key ->> 2
    OFFSET 0
) AS r

-- name: rows_of_threads
SELECT thread_id, created_at, updated_at, user_id, title, CAST(metadata AS TEXT), CAST(run_metadata AS TEXT)
FROM {threads} WHERE thread_id IN (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)))

-- name: rows_of_current_threads
SELECT user_id, agent, thread_id
FROM {current_threads} WHERE thread_id IN (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)))

-- name: lock_threads
-- As puts do: checkpoints and items of the threads are not removed until the transaction ends.
SELECT pg_advisory_xact_lock_shared(hashtextextended(t.thread_id, {lock}))
FROM (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)) COLLATE "C" AS thread_id ORDER BY 1) AS t

-- name: forget_deleted
DELETE FROM {tombstones} WHERE thread_id IN (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)))

-- name: load_items
INSERT INTO {items} (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)
SELECT thread_id, checkpoint_ns, channel, seq, added_at, checksum, NULLIF(tag, 0), data
FROM unnest(
    :thread_id::text[], :checkpoint_ns::text[], :channel::text[], :seq::bigint[], :added_at::bigint[],
    :checksum::bigint[], :tag::bigint[], :data::bytea[]
) AS r (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)
ON CONFLICT (thread_id, checkpoint_ns, channel, seq) DO NOTHING

-- name: insert_checkpoint
INSERT INTO {checkpoints} (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
)
SELECT thread_id, checkpoint_ns, checkpoint_id, NULLIF(parent_checkpoint_id, ''), NULLIF(run_id, ''), checkpoint, slots,
    CAST(metadata AS jsonb), NULLIF(metadata_exact, '')
FROM unnest(
    :thread_id::text[], :checkpoint_ns::text[], :checkpoint_id::text[], :parent_checkpoint_id::text[], :run_id::text[],
    :checkpoint::bytea[], :slots::bytea[], :metadata::text[], :metadata_exact::bytea[]
) AS r (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET
    parent_checkpoint_id = excluded.parent_checkpoint_id, run_id = excluded.run_id, checkpoint = excluded.checkpoint,
    slots = excluded.slots, metadata = excluded.metadata, metadata_exact = excluded.metadata_exact

-- name: replace_write
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data
FROM unnest(
    :thread_id::text[], :checkpoint_ns::text[], :checkpoint_id::text[], :task_id::text[], :idx::bigint[],
    :task_path::text[], :channel::text[], :data::bytea[]
) AS r (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE SET
    task_path = excluded.task_path, channel = excluded.channel, data = excluded.data

-- name: load_threads
INSERT INTO {threads} (thread_id, created_at, updated_at, user_id, title, metadata, run_metadata)
SELECT thread_id, created_at, updated_at, NULLIF(user_id, ''), NULLIF(title, ''), CAST(metadata AS jsonb),
    CAST(run_metadata AS jsonb)
FROM unnest(
    :thread_id::text[], :created_at::bigint[], :updated_at::bigint[], :user_id::text[], :title::text[],
    :metadata::text[], :run_metadata::text[]
) AS r (thread_id, created_at, updated_at, user_id, title, metadata, run_metadata)
ON CONFLICT (thread_id) DO UPDATE SET
    created_at = excluded.created_at, updated_at = excluded.updated_at, user_id = excluded.user_id,
    title = excluded.title, metadata = excluded.metadata, run_metadata = excluded.run_metadata

-- name: load_current_threads
INSERT INTO {current_threads} (user_id, agent, thread_id)
SELECT * FROM unnest(:user_id::text[], :agent::text[], :thread_id::text[])
ON CONFLICT (user_id, agent) DO NOTHING

-- name: known_threads
-- Which of some threads we have anything of.
SELECT thread_id FROM {checkpoints} WHERE thread_id IN (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)))
UNION SELECT thread_id FROM {writes} WHERE thread_id IN (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)))
UNION SELECT thread_id FROM {threads} WHERE thread_id IN (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)))
