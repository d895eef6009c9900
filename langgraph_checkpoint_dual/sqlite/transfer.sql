-- name: thread_sizes
-- How many rows some threads have, those that have any.
SELECT thread_id, count(*) FROM (
    SELECT r.thread_id FROM json_each(:threads) AS t CROSS JOIN {checkpoints} AS r ON r.thread_id = t.value
    UNION ALL SELECT r.thread_id FROM json_each(:threads) AS t CROSS JOIN {writes} AS r ON r.thread_id = t.value
) GROUP BY thread_id

-- name: narrow checkpoints
-- Checksums and sizes of the checkpoints of some threads.
SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, substr(r.checkpoint, 1, 4), substr(r.metadata_exact, 1, 4),
    CAST(r.slots AS BLOB), length(r.checkpoint) + length(r.metadata) + coalesce(length(r.metadata_exact), 0)
FROM json_each(:threads) AS t CROSS JOIN {checkpoints} AS r ON r.thread_id = t.value {where}

-- name: narrow writes
-- Checksums and sizes of the writes of some threads.
SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.task_id, r.idx, substr(r.data, 1, 4), length(r.data)
FROM json_each(:threads) AS t CROSS JOIN {writes} AS r ON r.thread_id = t.value {where}

-- name: item_sizes
-- The sizes of the items of some ranges of numbers: (place in the list of ranges, bytes).
SELECT g.key, sum(length(i.data))
FROM json_each(:ranges) AS g CROSS JOIN {items} AS i
WHERE i.thread_id = json_extract(g.value, '$[0]') AND i.checkpoint_ns = json_extract(g.value, '$[1]')
    AND i.channel = json_extract(g.value, '$[2]')
    AND i.seq BETWEEN json_extract(g.value, '$[3]') AND json_extract(g.value, '$[4]')
GROUP BY g.key

-- name: rows_of_checkpoints
SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.parent_checkpoint_id, r.run_id, CAST(r.checkpoint AS BLOB),
    CAST(r.slots AS BLOB), r.metadata, r.metadata_exact
FROM json_each(:checkpoints) AS k CROSS JOIN {checkpoints} AS r
WHERE r.thread_id = json_extract(k.value, '$[0]') AND r.checkpoint_ns = json_extract(k.value, '$[1]')
    AND r.checkpoint_id = json_extract(k.value, '$[2]')

-- name: rows_of_writes
SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.task_id, r.idx, r.task_path, r.channel, CAST(r.data AS BLOB)
FROM json_each(:checkpoints) AS k CROSS JOIN {writes} AS r
WHERE r.thread_id = json_extract(k.value, '$[0]') AND r.checkpoint_ns = json_extract(k.value, '$[1]')
    AND r.checkpoint_id = json_extract(k.value, '$[2]')

-- name: rows_of_threads
SELECT r.thread_id, r.created_at, r.updated_at, r.user_id, r.title, r.metadata, r.run_metadata
FROM json_each(:threads) AS t CROSS JOIN {threads} AS r ON r.thread_id = t.value

-- name: rows_of_current_threads
SELECT r.user_id, r.agent, r.thread_id
FROM json_each(:threads) AS t CROSS JOIN {current_threads} AS r ON r.thread_id = t.value

-- name: lock_threads
-- Nothing to do: a transaction that writes is alone.

-- name: forget_deleted
DELETE FROM {tombstones} WHERE thread_id IN (SELECT value FROM json_each(:threads))

-- name: load_items
INSERT INTO {items} (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id, checkpoint_ns, channel, seq) DO NOTHING

-- name: load_threads
INSERT INTO {threads} (thread_id, created_at, updated_at, user_id, title, metadata, run_metadata)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id) DO UPDATE SET
    created_at = excluded.created_at, updated_at = excluded.updated_at, user_id = excluded.user_id,
    title = excluded.title, metadata = excluded.metadata, run_metadata = excluded.run_metadata

-- name: load_current_threads
INSERT INTO {current_threads} (user_id, agent, thread_id) VALUES (?, ?, ?) ON CONFLICT (user_id, agent) DO NOTHING

-- name: known_threads
-- Which of some threads we have anything of.
SELECT thread_id FROM {checkpoints} WHERE thread_id IN (SELECT value FROM json_each(:threads))
UNION SELECT thread_id FROM {writes} WHERE thread_id IN (SELECT value FROM json_each(:threads))
UNION SELECT thread_id FROM {threads} WHERE thread_id IN (SELECT value FROM json_each(:threads))
