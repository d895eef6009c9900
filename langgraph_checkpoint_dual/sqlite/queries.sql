-- The queries that are SQLite's own. Lists come as JSON text.

-- name: page.filter
langgraph_matches(metadata, :needle, :nulls)

-- name: items
-- The items of some ranges of numbers: (place in the list of ranges, number, time, checksum, data), and as they are in the
-- same moment the slots of some checkpoints: (-1, place in the list of checkpoints, 0, 0, slots).
SELECT r.key, i.seq, i.added_at, i.checksum, CAST(i.data AS BLOB)
{+from_ranges}
UNION ALL
SELECT -1, c.key, 0, 0, CAST(k.slots AS BLOB)
{+from_keys}

-- name: rows_of_items
-- As `items`, with their tags before the data.
SELECT r.key, i.seq, i.added_at, i.checksum, i.tag, CAST(i.data AS BLOB)
{+from_ranges}
UNION ALL
SELECT -1, c.key, 0, 0, NULL, CAST(k.slots AS BLOB)
{+from_keys}

-- name: from_ranges
FROM json_each(:ranges) AS r CROSS JOIN {items} AS i
WHERE i.thread_id = json_extract(r.value, '$[0]') AND i.checkpoint_ns = json_extract(r.value, '$[1]')
    AND i.channel = json_extract(r.value, '$[2]')
    AND i.seq BETWEEN json_extract(r.value, '$[3]') AND json_extract(r.value, '$[4]')

-- name: slots_of
SELECT k.thread_id, k.checkpoint_ns, k.checkpoint_id, k.slots
{+from_keys}

-- name: from_keys
FROM json_each(:checkpoints) AS c CROSS JOIN {checkpoints} AS k
WHERE k.thread_id = json_extract(c.value, '$[0]') AND k.checkpoint_ns = json_extract(c.value, '$[1]')
    AND k.checkpoint_id = json_extract(c.value, '$[2]')

-- name: present
-- How many of some checkpoints are there.
SELECT count(*) FROM json_each(:checkpoints) AS c CROSS JOIN {checkpoints} AS k
WHERE k.thread_id = json_extract(c.value, '$[0]') AND k.checkpoint_ns = json_extract(c.value, '$[1]')
    AND k.checkpoint_id = json_extract(c.value, '$[2]')

-- name: writes
-- The pending writes of some checkpoints to some channels.
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, w.data, NULL, NULL
FROM json_each(:checkpoints) AS c CROSS JOIN {writes} AS w
WHERE w.thread_id = json_extract(c.value, '$[0]') AND w.checkpoint_ns = json_extract(c.value, '$[1]')
    AND w.checkpoint_id = json_extract(c.value, '$[2]')
    AND w.channel IN (SELECT value FROM json_each(:channels))

-- name: insert_item
INSERT INTO {items} (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: new_checkpoint
INSERT INTO {checkpoints} (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_checkpoint
INSERT INTO {checkpoints} (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET
    parent_checkpoint_id = excluded.parent_checkpoint_id, run_id = excluded.run_id, checkpoint = excluded.checkpoint,
    slots = excluded.slots, metadata = excluded.metadata, metadata_exact = excluded.metadata_exact

-- name: insert_write
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING

-- name: replace_write
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE SET
    task_path = excluded.task_path, channel = excluded.channel, data = excluded.data

-- name: lock_thread
-- Nothing to do: a transaction that writes is alone.

-- name: touch_thread
INSERT INTO {threads} (thread_id, created_at, updated_at, user_id, title, run_metadata) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id) DO UPDATE SET
    updated_at = max(updated_at, excluded.updated_at), user_id = coalesce(excluded.user_id, user_id),
    title = coalesce(excluded.title, title), run_metadata = excluded.run_metadata

-- name: delete_thread
-- What is left is the highest id that the thread had, for a while: runs that began before may still put.
INSERT INTO {tombstones} (thread_id, checkpoint_id, deleted_at)
SELECT :thread_id, highest, :at FROM (
    SELECT max(checkpoint_id) AS highest FROM (
        SELECT checkpoint_id FROM {checkpoints} WHERE thread_id = :thread_id
        UNION ALL SELECT checkpoint_id FROM {writes} WHERE thread_id = :thread_id
    )
) WHERE highest IS NOT NULL
ON CONFLICT (thread_id) DO UPDATE SET
    checkpoint_id = max(checkpoint_id, excluded.checkpoint_id), deleted_at = excluded.deleted_at;
DELETE FROM {tombstones} WHERE deleted_at < :expired;
DELETE FROM {checkpoints} WHERE thread_id = :thread_id;
DELETE FROM {items} WHERE thread_id = :thread_id;
DELETE FROM {writes} WHERE thread_id = :thread_id;
DELETE FROM {threads} WHERE thread_id = :thread_id;
DELETE FROM {current_threads} WHERE thread_id = :thread_id;

-- name: copy_thread
-- Of tags the exclusive or, for which SQLite has no operator.
INSERT INTO {checkpoints} (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
) SELECT :target, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
FROM {checkpoints} WHERE thread_id = :source;
INSERT INTO {items} (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)
SELECT :target, checkpoint_ns, channel, seq, added_at, checksum, (tag | :between) - (tag & :between), data
FROM {items} WHERE thread_id = :source;
INSERT INTO {threads} (thread_id, created_at, updated_at, user_id, title, metadata, run_metadata)
SELECT :target, :at, updated_at, user_id, title, metadata, run_metadata FROM {threads} WHERE thread_id = :source
ON CONFLICT (thread_id) DO NOTHING;
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
SELECT :target, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data
FROM {writes} WHERE thread_id = :source
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING;

-- name: threads_of_runs
SELECT DISTINCT thread_id FROM {checkpoints} WHERE run_id IN (SELECT value FROM json_each(:run_ids))

-- name: checkpoints_of_runs
SELECT checkpoint_ns, checkpoint_id, CAST(metadata AS TEXT) FROM {checkpoints}
WHERE thread_id = :thread_id AND run_id IN (SELECT value FROM json_each(:run_ids))

-- name: delete_checkpoints
DELETE FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
    AND checkpoint_id IN (SELECT value FROM json_each(:checkpoint_ids));
DELETE FROM {writes}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
    AND checkpoint_id IN (SELECT value FROM json_each(:checkpoint_ids));

-- name: delete_items
DELETE FROM {items}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
    AND (channel, seq) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:items));

-- name: has_migrations
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = {migrations_name}

-- name: applied_migrations
SELECT version FROM {migrations} ORDER BY version

-- name: lock_migrations
-- Nothing to do: a transaction that writes is alone.

-- name: record_migration
INSERT INTO {migrations} (version, name, applied_at) VALUES (:version, :name, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
