-- The tables of the official saver, as they are, where the search path finds them. Rows have the shape
-- (0 checkpoint | 1 write | 2 value, thread, namespace, checkpoint, parent | task, metadata | task path, channel, idx, data, type).
-- `(SELECT '' AS task_path)` lends its column to tables from before there was one: the innermost table wins.

-- name: official_tables
-- The case keeps has_table_privilege() from being asked about a table that is not there.
SELECT 1 FROM (VALUES
    ('checkpoints', ARRAY[
        'thread_id', 'checkpoint_ns', 'checkpoint_id', 'parent_checkpoint_id', 'checkpoint', 'metadata', 'type'
    ]),
    ('checkpoint_blobs', ARRAY['thread_id', 'checkpoint_ns', 'channel', 'version', 'type', 'blob']),
    ('checkpoint_writes', ARRAY[
        'thread_id', 'checkpoint_ns', 'checkpoint_id', 'task_id', 'idx', 'channel', 'type', 'blob'
    ])
) AS t (name, columns)
HAVING bool_and(CASE
    WHEN to_regclass(t.name) IS NULL THEN false
    WHEN NOT has_table_privilege(to_regclass(t.name), 'SELECT') THEN false
    ELSE cardinality(t.columns) = (
        SELECT count(*) FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = to_regclass(t.name) AND a.attname = ANY (t.columns) AND NOT a.attisdropped
    )
END)

-- name: official_page
-- A page of checkpoints, latest first, with their values, their pending writes and the pending writes of some others.
WITH page AS (
    SELECT * FROM checkpoints
    {where}
    ORDER BY checkpoint_id DESC, thread_id DESC, checkpoint_ns DESC
    LIMIT :limit
), places AS (
    SELECT thread_id, checkpoint_ns, checkpoint_id FROM page
    UNION ALL
    SELECT o.key ->> 0, o.key ->> 1, o.key ->> 2 FROM jsonb_array_elements(CAST(:others AS jsonb)) AS o (key)
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, CAST(metadata AS text), NULL, 0,
    convert_to(CAST(checkpoint AS text), 'UTF8'), NULL
FROM page
UNION ALL
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, w.blob, w.type
FROM places AS p CROSS JOIN (SELECT '' AS task_path) AS none CROSS JOIN LATERAL (
    SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, channel, idx, blob, type FROM checkpoint_writes AS w
    WHERE w.thread_id = p.thread_id AND w.checkpoint_ns = p.checkpoint_ns AND w.checkpoint_id = p.checkpoint_id
    OFFSET 0
) AS w
UNION ALL
SELECT 2, page.thread_id, page.checkpoint_ns, page.checkpoint_id, NULL, NULL, b.channel, 0, b.blob, b.type
FROM page CROSS JOIN LATERAL jsonb_each_text(page.checkpoint -> 'channel_versions') AS v (channel, version)
CROSS JOIN LATERAL (
    SELECT b.channel, b.blob, b.type FROM checkpoint_blobs AS b
    WHERE b.thread_id = page.thread_id AND b.checkpoint_ns = page.checkpoint_ns AND b.channel = v.channel
        AND b.version = v.version
    OFFSET 0
) AS b

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
metadata @> CAST(:needle AS jsonb) AND NOT EXISTS (
    SELECT FROM jsonb_array_elements_text(CAST(:nulls AS jsonb)) AS n (key)
    WHERE coalesce(metadata -> n.key, 'null') <> 'null'
)

-- name: official_head
SELECT checkpoint_id FROM checkpoints
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns
ORDER BY checkpoint_id DESC LIMIT 1

-- name: official_parent
SELECT parent_checkpoint_id FROM checkpoints
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: official_chain
-- A checkpoint and its ancestors: (depth, checkpoint).
WITH RECURSIVE chain (depth, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id) AS (
    SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM checkpoints
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id
    UNION ALL
    SELECT chain.depth + 1, c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id
    FROM chain JOIN checkpoints AS c ON c.thread_id = chain.thread_id AND c.checkpoint_ns = chain.checkpoint_ns
        AND c.checkpoint_id = chain.parent_checkpoint_id
    WHERE chain.depth + 1 < :limit
)
SELECT depth, checkpoint_id FROM chain

-- name: official_checkpoints
-- Some checkpoints, without their writes, and what is stored of some channels of theirs.
WITH page AS (
    SELECT k.*
    FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (key) CROSS JOIN LATERAL (
        SELECT * FROM checkpoints AS k
        WHERE k.thread_id = c.key ->> 0 AND k.checkpoint_ns = c.key ->> 1 AND k.checkpoint_id = c.key ->> 2
        OFFSET 0
    ) AS k
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, CAST(metadata AS text), NULL, 0,
    convert_to(CAST(checkpoint AS text), 'UTF8'), NULL
FROM page
UNION ALL
SELECT 2, page.thread_id, page.checkpoint_ns, page.checkpoint_id, NULL, NULL, b.channel, 0, b.blob, b.type
FROM page CROSS JOIN jsonb_array_elements_text(CAST(:channels AS jsonb)) AS v (channel)
CROSS JOIN LATERAL (
    SELECT b.channel, b.blob, b.type FROM checkpoint_blobs AS b
    WHERE b.thread_id = page.thread_id AND b.checkpoint_ns = page.checkpoint_ns AND b.channel = v.channel
        AND b.version = page.checkpoint -> 'channel_versions' ->> v.channel
    OFFSET 0
) AS b

-- name: official_writes
-- The pending writes of some checkpoints, to some channels if any are given.
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, w.blob, w.type
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (key)
CROSS JOIN (SELECT '' AS task_path) AS none CROSS JOIN LATERAL (
    SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, channel, idx, blob, type FROM checkpoint_writes AS w
    WHERE w.thread_id = c.key ->> 0 AND w.checkpoint_ns = c.key ->> 1 AND w.checkpoint_id = c.key ->> 2
    OFFSET 0
) AS w
WHERE CAST(:channels AS text) = '[]' OR w.channel IN (SELECT jsonb_array_elements_text(CAST(:channels AS jsonb)))

-- name: writes_of
-- Our pending writes of some checkpoints.
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, w.data,
    NULL::bytea, NULL::bytea
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (key)
CROSS JOIN LATERAL (
    SELECT * FROM {writes}
    WHERE thread_id = c.key ->> 0 AND checkpoint_ns = c.key ->> 1 AND checkpoint_id = c.key ->> 2
    OFFSET 0
) AS w

-- name: places
-- Which of some checkpoints are among ours.
SELECT 0, k.thread_id, k.checkpoint_ns, k.checkpoint_id
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (key)
CROSS JOIN LATERAL (
    SELECT thread_id, checkpoint_ns, checkpoint_id FROM {checkpoints}
    WHERE thread_id = c.key ->> 0 AND checkpoint_ns = c.key ->> 1 AND checkpoint_id = c.key ->> 2
    OFFSET 0
) AS k

-- name: official_any
SELECT 1 FROM checkpoints WHERE thread_id = :thread_id LIMIT 1

-- name: official_tree
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, CAST(metadata AS text) FROM checkpoints
WHERE thread_id = :thread_id

-- name: official_bury
-- Remember the highest id of a thread that is deleted, as `delete_thread` does.
INSERT INTO {tombstones} AS t (thread_id, checkpoint_id, deleted_at)
SELECT :own_id, max(checkpoint_id COLLATE "C"), :at FROM (
    SELECT checkpoint_id FROM checkpoints WHERE thread_id = :thread_id
    UNION ALL SELECT checkpoint_id FROM checkpoint_writes WHERE thread_id = :thread_id
) AS ids
HAVING max(checkpoint_id COLLATE "C") IS NOT NULL
ON CONFLICT (thread_id) DO UPDATE SET
    checkpoint_id = greatest(t.checkpoint_id, excluded.checkpoint_id), deleted_at = excluded.deleted_at

-- name: official_threads
-- The next threads, in the order of their ids.
SELECT thread_id FROM (
    SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id > :after ORDER BY thread_id LIMIT :limit
) AS c
UNION
SELECT thread_id FROM (
    SELECT DISTINCT thread_id FROM checkpoint_writes WHERE thread_id > :after ORDER BY thread_id LIMIT :limit
) AS w
ORDER BY thread_id LIMIT :limit

-- name: official_counts
SELECT count(DISTINCT thread_id), count(*) FROM checkpoints

-- name: official_unmoved
-- The checkpoints and writes of a thread that are not among ours: (namespace, checkpoint, is a checkpoint).
SELECT c.checkpoint_ns, c.checkpoint_id, 1 FROM checkpoints AS c
WHERE c.thread_id = :thread_id AND NOT EXISTS (
    SELECT FROM {checkpoints} AS o
    WHERE o.thread_id = :own_id AND o.checkpoint_ns = c.checkpoint_ns COLLATE "C"
        AND o.checkpoint_id = c.checkpoint_id COLLATE "C"
)
UNION
SELECT w.checkpoint_ns, w.checkpoint_id, 0 FROM checkpoint_writes AS w
WHERE w.thread_id = :thread_id AND NOT EXISTS (
    SELECT FROM {writes} AS o
    WHERE o.thread_id = :own_id AND o.checkpoint_ns = w.checkpoint_ns COLLATE "C"
        AND o.checkpoint_id = w.checkpoint_id COLLATE "C" AND o.task_id = w.task_id COLLATE "C" AND o.idx = w.idx
)
ORDER BY 2, 1, 3 DESC

-- name: official_runs
-- The checkpoints that some runs made: (thread, namespace, checkpoint).
SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints
WHERE metadata ->> 'run_id' IN (SELECT jsonb_array_elements_text(CAST(:run_ids AS jsonb)))
-- name: official_runs of_thread
SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints
WHERE thread_id = :thread_id AND metadata ->> 'run_id' IN (SELECT jsonb_array_elements_text(CAST(:run_ids AS jsonb)))

-- name: official_hang
UPDATE checkpoints SET parent_checkpoint_id = :parent_checkpoint_id
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id

-- name: official_delete_checkpoints
-- Values go when no checkpoint that stays has them. What a run adds meanwhile has its own or those of a kept checkpoint.
WITH ids AS (
    SELECT jsonb_array_elements_text(CAST(:checkpoint_ids AS jsonb)) AS id
), gone AS (
    DELETE FROM checkpoints
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id IN (SELECT id FROM ids)
    RETURNING checkpoint -> 'channel_versions' AS versions
), w AS (
    DELETE FROM checkpoint_writes
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id IN (SELECT id FROM ids)
), freed AS (
    SELECT v.key, v.value FROM gone CROSS JOIN LATERAL jsonb_each_text(gone.versions) AS v
    EXCEPT
    SELECT v.key, v.value FROM checkpoints AS c CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
    WHERE c.thread_id = :thread_id AND c.checkpoint_ns = :checkpoint_ns AND c.checkpoint_id NOT IN (SELECT id FROM ids)
)
DELETE FROM checkpoint_blobs AS b USING freed
WHERE b.thread_id = :thread_id AND b.checkpoint_ns = :checkpoint_ns AND b.channel = freed.key AND b.version = freed.value

-- name: official_delete_thread
WITH c AS (DELETE FROM checkpoints WHERE thread_id = :thread_id),
    b AS (DELETE FROM checkpoint_blobs WHERE thread_id = :thread_id)
DELETE FROM checkpoint_writes WHERE thread_id = :thread_id

-- name: official_moved
-- Some checkpoints with all that is stored of them.
WITH page AS (
    SELECT k.*
    FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (key) CROSS JOIN LATERAL (
        SELECT * FROM checkpoints AS k
        WHERE k.thread_id = c.key ->> 0 AND k.checkpoint_ns = c.key ->> 1 AND k.checkpoint_id = c.key ->> 2
        OFFSET 0
    ) AS k
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, CAST(metadata AS text), NULL, 0,
    convert_to(CAST(checkpoint AS text), 'UTF8'), NULL
FROM page
UNION ALL
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, w.blob, w.type
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (key)
CROSS JOIN (SELECT '' AS task_path) AS none CROSS JOIN LATERAL (
    SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, channel, idx, blob, type FROM checkpoint_writes AS w
    WHERE w.thread_id = c.key ->> 0 AND w.checkpoint_ns = c.key ->> 1 AND w.checkpoint_id = c.key ->> 2
    OFFSET 0
) AS w
UNION ALL
SELECT 2, page.thread_id, page.checkpoint_ns, page.checkpoint_id, NULL, NULL, b.channel, 0, b.blob, b.type
FROM page CROSS JOIN LATERAL jsonb_each_text(page.checkpoint -> 'channel_versions') AS v (channel, version)
CROSS JOIN LATERAL (
    SELECT b.channel, b.blob, b.type FROM checkpoint_blobs AS b
    WHERE b.thread_id = page.thread_id AND b.checkpoint_ns = page.checkpoint_ns AND b.channel = v.channel
        AND b.version = v.version
    OFFSET 0
) AS b

-- name: official_present
-- Those of some checkpoints of which there is still anything: (thread, namespace, checkpoint).
SELECT k.thread_id, k.checkpoint_ns, k.checkpoint_id
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (key) CROSS JOIN LATERAL (
    SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints
    WHERE thread_id = c.key ->> 0 AND checkpoint_ns = c.key ->> 1 AND checkpoint_id = c.key ->> 2
    OFFSET 0
) AS k
UNION
SELECT k.thread_id, k.checkpoint_ns, k.checkpoint_id
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (key) CROSS JOIN LATERAL (
    SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoint_writes
    WHERE thread_id = c.key ->> 0 AND checkpoint_ns = c.key ->> 1 AND checkpoint_id = c.key ->> 2
    OFFSET 0
) AS k

-- name: official_lock_threads
-- As `lock_thread`, for several; in one order, so that those who work at once never wait for each other in a circle.
SELECT pg_advisory_xact_lock(hashtextextended(t.thread_id, {lock}))
FROM (SELECT jsonb_array_elements_text(CAST(:threads AS jsonb)) COLLATE "C" AS thread_id ORDER BY 1) AS t

-- name: official_taken
-- Those of some ranges of numbers in which we have an item.
SELECT r.place - 1
FROM jsonb_array_elements(CAST(:ranges AS jsonb)) WITH ORDINALITY AS r (range, place)
WHERE EXISTS (
    SELECT FROM {items}
    WHERE thread_id = r.range ->> 0 AND checkpoint_ns = r.range ->> 1 AND channel = r.range ->> 2
        AND seq BETWEEN CAST(r.range ->> 3 AS bigint) AND CAST(r.range ->> 4 AS bigint)
)

-- name: move_write
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data
FROM unnest(
    :thread_id::text[], :checkpoint_ns::text[], :checkpoint_id::text[], :task_id::text[], :idx::bigint[],
    :task_path::text[], :channel::text[], :data::bytea[]
) AS r (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING

-- name: official_register
-- What moved checkpoints tell the registry: the latest of all checkpoints has the last word.
INSERT INTO {threads} AS t (thread_id, created_at, updated_at, user_id, title, run_metadata)
VALUES (:thread_id, :created_at, :updated_at, :user_id, :title, CAST(:run_metadata AS jsonb))
ON CONFLICT (thread_id) DO UPDATE SET
    created_at = least(t.created_at, excluded.created_at), updated_at = greatest(t.updated_at, excluded.updated_at),
    user_id = CASE WHEN excluded.updated_at < t.updated_at THEN coalesce(t.user_id, excluded.user_id)
        ELSE coalesce(excluded.user_id, t.user_id) END,
    title = CASE WHEN excluded.updated_at < t.updated_at THEN coalesce(t.title, excluded.title)
        ELSE coalesce(excluded.title, t.title) END,
    run_metadata = CASE WHEN excluded.updated_at < t.updated_at THEN t.run_metadata ELSE excluded.run_metadata END

-- name: official_any_thread
SELECT thread_id FROM checkpoints ORDER BY thread_id LIMIT 1 OFFSET :skip

-- name: official_places
-- The checkpoints of a thread, oldest first: (namespace, checkpoint).
SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE thread_id = :thread_id ORDER BY checkpoint_id, checkpoint_ns

-- name: official_left
-- Whether there is anything that we lack.
SELECT 1 FROM checkpoints AS c WHERE NOT EXISTS (
    SELECT FROM {checkpoints} AS o
    WHERE o.thread_id = replace(c.thread_id, chr(57344), chr(57344) || 'e000') COLLATE "C"
        AND o.checkpoint_ns = c.checkpoint_ns COLLATE "C" AND o.checkpoint_id = c.checkpoint_id COLLATE "C"
)
UNION ALL
SELECT 1 FROM checkpoint_writes AS w WHERE NOT EXISTS (
    SELECT FROM {writes} AS o
    WHERE o.thread_id = replace(w.thread_id, chr(57344), chr(57344) || 'e000') COLLATE "C"
        AND o.checkpoint_ns = w.checkpoint_ns COLLATE "C" AND o.checkpoint_id = w.checkpoint_id COLLATE "C"
        AND o.task_id = w.task_id COLLATE "C" AND o.idx = w.idx
)
LIMIT 1

-- name: official_lock
LOCK TABLE checkpoints, checkpoint_blobs, checkpoint_writes IN ACCESS EXCLUSIVE MODE

-- name: official_drop
DROP TABLE checkpoints, checkpoint_blobs, checkpoint_writes
-- name: official_drop others
DROP TABLE IF EXISTS checkpoint_migrations
