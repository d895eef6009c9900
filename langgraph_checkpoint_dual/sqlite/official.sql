-- The tables of the official saver, as they are. Rows have the shape
-- (0 checkpoint | 1 write | 2 value, thread, namespace, checkpoint, parent | task, metadata | task path, channel, idx, data, type).
-- `(SELECT '' AS task_path)` lends its column to tables from before there was one: the innermost table wins.

-- name: official_tables
SELECT 1
WHERE 7 = (
    SELECT count(*) FROM pragma_table_info('checkpoints') WHERE name IN (
        'thread_id', 'checkpoint_ns', 'checkpoint_id', 'parent_checkpoint_id', 'type', 'checkpoint', 'metadata'
    )
) AND 8 = (
    SELECT count(*) FROM pragma_table_info('writes') WHERE name IN (
        'thread_id', 'checkpoint_ns', 'checkpoint_id', 'task_id', 'idx', 'channel', 'type', 'value'
    )
)

-- name: official_page
-- A page of checkpoints, latest first, with their pending writes and those of some others.
-- Which ones, the index tells; what is sorted is narrow.
WITH page AS (
    SELECT c.* FROM (
        SELECT rowid AS place FROM "checkpoints"
        {where}
        ORDER BY checkpoint_id DESC, thread_id DESC, checkpoint_ns DESC
        LIMIT :limit
    ) AS k CROSS JOIN "checkpoints" AS c ON c.rowid = k.place
), places AS (
    SELECT thread_id, checkpoint_ns, checkpoint_id FROM page
    UNION ALL
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(:others)
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata, NULL, 0, CAST(checkpoint AS BLOB), type
FROM page
UNION ALL
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id,
    (SELECT task_path FROM "writes" AS again WHERE again.rowid = w.rowid), w.channel, w.idx, CAST(w.value AS BLOB), w.type
FROM places AS p CROSS JOIN "writes" AS w CROSS JOIN (SELECT '' AS task_path) AS none
WHERE w.thread_id = p.thread_id AND w.checkpoint_ns = p.checkpoint_ns AND w.checkpoint_id = p.checkpoint_id

-- name: official_page.thread_id
thread_id = :thread_id
-- name: official_page.checkpoint_ns
checkpoint_ns = :checkpoint_ns
-- name: official_page.checkpoint_id
checkpoint_id = :checkpoint_id
-- name: official_page.before
checkpoint_id < :before
-- name: official_page.after
(checkpoint_id, thread_id, checkpoint_ns) < (:after_id, :after_thread, :after_ns)
-- name: official_page.newer
(checkpoint_id, thread_id, checkpoint_ns) > (:newer_id, :newer_thread, :newer_ns)
-- name: official_page.filter
langgraph_matches_official(metadata, :needle, :nulls)

-- name: official_head
SELECT checkpoint_id FROM "checkpoints"
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
ORDER BY checkpoint_id DESC LIMIT 1

-- name: official_parent
SELECT parent_checkpoint_id FROM "checkpoints"
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: official_chain
-- A checkpoint and its ancestors: (depth, checkpoint).
WITH RECURSIVE chain (depth, checkpoint_id, parent_checkpoint_id) AS (
    SELECT 0, checkpoint_id, parent_checkpoint_id FROM "checkpoints"
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id
    UNION ALL
    SELECT chain.depth + 1, c.checkpoint_id, c.parent_checkpoint_id
    FROM chain CROSS JOIN "checkpoints" AS c
    WHERE c.thread_id = :thread_id AND c.checkpoint_ns = :checkpoint_ns AND c.checkpoint_id = chain.parent_checkpoint_id
        AND chain.depth + 1 < :limit
)
SELECT depth, checkpoint_id FROM chain

-- name: official_checkpoints
-- Some checkpoints, without their writes. Of their values all, as they are stored in one.
SELECT 0, k.thread_id, k.checkpoint_ns, k.checkpoint_id, k.parent_checkpoint_id, k.metadata, NULL, 0,
    CAST(k.checkpoint AS BLOB), k.type
FROM json_each(:checkpoints) AS c CROSS JOIN "checkpoints" AS k
WHERE k.thread_id = json_extract(c.value, '$[0]') AND k.checkpoint_ns = json_extract(c.value, '$[1]')
    AND k.checkpoint_id = json_extract(c.value, '$[2]')

-- name: official_writes
-- The pending writes of some checkpoints, to some channels if any are given.
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id,
    (SELECT task_path FROM "writes" AS again WHERE again.rowid = w.rowid), w.channel, w.idx, CAST(w.value AS BLOB), w.type
FROM json_each(:checkpoints) AS c CROSS JOIN "writes" AS w CROSS JOIN (SELECT '' AS task_path) AS none
WHERE w.thread_id = json_extract(c.value, '$[0]') AND w.checkpoint_ns = json_extract(c.value, '$[1]')
    AND w.checkpoint_id = json_extract(c.value, '$[2]')
    AND (:channels = '[]' OR w.channel IN (SELECT value FROM json_each(:channels)))

-- name: writes_of
-- Our pending writes of some checkpoints.
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, w.data, NULL, NULL
FROM json_each(:checkpoints) AS c CROSS JOIN {writes} AS w
WHERE w.thread_id = json_extract(c.value, '$[0]') AND w.checkpoint_ns = json_extract(c.value, '$[1]')
    AND w.checkpoint_id = json_extract(c.value, '$[2]')

-- name: places
-- Which of some checkpoints are among ours.
SELECT 0, k.thread_id, k.checkpoint_ns, k.checkpoint_id FROM json_each(:checkpoints) AS c CROSS JOIN {checkpoints} AS k
WHERE k.thread_id = json_extract(c.value, '$[0]') AND k.checkpoint_ns = json_extract(c.value, '$[1]')
    AND k.checkpoint_id = json_extract(c.value, '$[2]')

-- name: official_any
SELECT 1 FROM "checkpoints" WHERE thread_id = :thread_id LIMIT 1

-- name: official_tree
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata FROM "checkpoints" WHERE thread_id = :thread_id

-- name: official_bury
-- Remember the highest id of a thread that is deleted, as `delete_thread` does.
INSERT INTO {tombstones} (thread_id, checkpoint_id, deleted_at)
SELECT :own_id, highest, :at FROM (
    SELECT max(checkpoint_id) AS highest FROM (
        SELECT checkpoint_id FROM "checkpoints" WHERE thread_id = :thread_id
        UNION ALL SELECT checkpoint_id FROM "writes" WHERE thread_id = :thread_id
    )
) WHERE highest IS NOT NULL
ON CONFLICT (thread_id) DO UPDATE SET
    checkpoint_id = max(checkpoint_id, excluded.checkpoint_id), deleted_at = excluded.deleted_at

-- name: official_threads
-- The next threads, in the order of their ids.
SELECT thread_id FROM (
    SELECT DISTINCT thread_id FROM "checkpoints" WHERE thread_id > :after ORDER BY thread_id LIMIT :limit
)
UNION
SELECT thread_id FROM (SELECT DISTINCT thread_id FROM "writes" WHERE thread_id > :after ORDER BY thread_id LIMIT :limit)
ORDER BY thread_id LIMIT :limit

-- name: official_counts
SELECT count(DISTINCT thread_id), count(*) FROM "checkpoints"

-- name: official_unmoved
-- The checkpoints and writes of a thread that are not among ours: (namespace, checkpoint, is a checkpoint).
SELECT c.checkpoint_ns, c.checkpoint_id, 1 FROM "checkpoints" AS c
WHERE c.thread_id = :thread_id AND NOT EXISTS (
    SELECT 1 FROM {checkpoints} AS o
    WHERE o.thread_id = :own_id AND o.checkpoint_ns = c.checkpoint_ns AND o.checkpoint_id = c.checkpoint_id
)
UNION
SELECT w.checkpoint_ns, w.checkpoint_id, 0 FROM "writes" AS w
WHERE w.thread_id = :thread_id AND NOT EXISTS (
    SELECT 1 FROM {writes} AS o
    WHERE o.thread_id = :own_id AND o.checkpoint_ns = w.checkpoint_ns AND o.checkpoint_id = w.checkpoint_id
        AND o.task_id = w.task_id AND o.idx = w.idx
)
ORDER BY 2, 1, 3 DESC

-- name: official_runs
-- The checkpoints that some runs made: (thread, namespace, checkpoint).
SELECT thread_id, checkpoint_ns, checkpoint_id FROM "checkpoints"
WHERE langgraph_run_of(metadata) IN (SELECT value FROM json_each(:run_ids))
-- name: official_runs of_thread
SELECT thread_id, checkpoint_ns, checkpoint_id FROM "checkpoints"
WHERE thread_id = :thread_id AND langgraph_run_of(metadata) IN (SELECT value FROM json_each(:run_ids))

-- name: official_hang
UPDATE "checkpoints" SET parent_checkpoint_id = :parent_checkpoint_id
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: official_delete_checkpoints
DELETE FROM "checkpoints"
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
    AND checkpoint_id IN (SELECT value FROM json_each(:checkpoint_ids));
DELETE FROM "writes"
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
    AND checkpoint_id IN (SELECT value FROM json_each(:checkpoint_ids));

-- name: official_delete_thread
DELETE FROM "checkpoints" WHERE thread_id = :thread_id;
DELETE FROM "writes" WHERE thread_id = :thread_id;

-- name: official_moved
-- Some checkpoints with all that is stored of them.
{+official_checkpoints}
UNION ALL
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id,
    (SELECT task_path FROM "writes" AS again WHERE again.rowid = w.rowid), w.channel, w.idx, CAST(w.value AS BLOB), w.type
FROM json_each(:checkpoints) AS c CROSS JOIN "writes" AS w CROSS JOIN (SELECT '' AS task_path) AS none
WHERE w.thread_id = json_extract(c.value, '$[0]') AND w.checkpoint_ns = json_extract(c.value, '$[1]')
    AND w.checkpoint_id = json_extract(c.value, '$[2]')

-- name: official_present
-- Those of some checkpoints of which there is still anything: (thread, namespace, checkpoint).
SELECT k.thread_id, k.checkpoint_ns, k.checkpoint_id FROM json_each(:checkpoints) AS c CROSS JOIN "checkpoints" AS k
WHERE k.thread_id = json_extract(c.value, '$[0]') AND k.checkpoint_ns = json_extract(c.value, '$[1]')
    AND k.checkpoint_id = json_extract(c.value, '$[2]')
UNION
SELECT w.thread_id, w.checkpoint_ns, w.checkpoint_id FROM json_each(:checkpoints) AS c CROSS JOIN "writes" AS w
WHERE w.thread_id = json_extract(c.value, '$[0]') AND w.checkpoint_ns = json_extract(c.value, '$[1]')
    AND w.checkpoint_id = json_extract(c.value, '$[2]')

-- name: official_lock_threads
-- Nothing to do: a transaction that writes is alone.

-- name: official_taken
-- Those of some ranges of numbers in which we have an item.
SELECT r.key FROM json_each(:ranges) AS r
WHERE EXISTS (
    SELECT 1 FROM {items} AS i
    WHERE i.thread_id = json_extract(r.value, '$[0]') AND i.checkpoint_ns = json_extract(r.value, '$[1]')
        AND i.channel = json_extract(r.value, '$[2]')
        AND i.seq BETWEEN json_extract(r.value, '$[3]') AND json_extract(r.value, '$[4]')
)

-- name: move_write
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING

-- name: official_register
-- What moved checkpoints tell the registry: the latest of all checkpoints has the last word.
INSERT INTO {threads} (thread_id, created_at, updated_at, user_id, title, run_metadata)
VALUES (:thread_id, :created_at, :updated_at, :user_id, :title, :run_metadata)
ON CONFLICT (thread_id) DO UPDATE SET
    created_at = min(created_at, excluded.created_at), updated_at = max(updated_at, excluded.updated_at),
    user_id = CASE WHEN excluded.updated_at < updated_at THEN coalesce(user_id, excluded.user_id)
        ELSE coalesce(excluded.user_id, user_id) END,
    title = CASE WHEN excluded.updated_at < updated_at THEN coalesce(title, excluded.title)
        ELSE coalesce(excluded.title, title) END,
    run_metadata = CASE WHEN excluded.updated_at < updated_at THEN run_metadata ELSE excluded.run_metadata END

-- name: official_any_thread
SELECT thread_id FROM "checkpoints" ORDER BY thread_id LIMIT 1 OFFSET :skip

-- name: official_places
-- The checkpoints of a thread, oldest first: (namespace, checkpoint).
SELECT checkpoint_ns, checkpoint_id FROM "checkpoints" WHERE thread_id = :thread_id ORDER BY checkpoint_id, checkpoint_ns

-- name: official_left
-- Whether there is anything that we lack.
SELECT 1 FROM (
    SELECT 1 FROM "checkpoints" AS c WHERE NOT EXISTS (
        SELECT 1 FROM {checkpoints} AS o WHERE o.thread_id = langgraph_escape(c.thread_id)
            AND o.checkpoint_ns = c.checkpoint_ns AND o.checkpoint_id = c.checkpoint_id
    )
    UNION ALL
    SELECT 1 FROM "writes" AS w WHERE NOT EXISTS (
        SELECT 1 FROM {writes} AS o WHERE o.thread_id = langgraph_escape(w.thread_id)
            AND o.checkpoint_ns = w.checkpoint_ns AND o.checkpoint_id = w.checkpoint_id
            AND o.task_id = w.task_id AND o.idx = w.idx
    )
) LIMIT 1

-- name: official_lock
-- Nothing to do: a transaction that writes is alone.

-- name: official_drop
DROP TABLE "checkpoints"
-- name: official_drop others
DROP TABLE "writes"
