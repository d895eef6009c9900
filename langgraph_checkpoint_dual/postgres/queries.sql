-- The queries that are Postgres' own. Lists come as JSON text, new rows as one array a column.

-- name: page.filter
metadata @> CAST(:needle AS jsonb) AND NOT EXISTS (
    SELECT FROM jsonb_array_elements_text(CAST(:nulls AS jsonb)) AS n (key)
    WHERE coalesce(metadata -> n.key, 'null') <> 'null'
)

-- name: items
-- The items of some ranges of numbers: (place in the list of ranges, number, checksum, data), and as they are in the
-- same moment the slots of some checkpoints: (-1, place in the list of checkpoints, 0, slots).
-- OFFSET 0 keeps the planner from any plan but one index scan for each.
SELECT r.place - 1, i.seq, i.checksum, i.data
FROM jsonb_array_elements(CAST(:ranges AS jsonb)) WITH ORDINALITY AS r (range, place)
CROSS JOIN LATERAL (
    SELECT seq, checksum, data FROM {items}
    WHERE thread_id = r.range ->> 0 AND checkpoint_ns = r.range ->> 1 AND channel = r.range ->> 2
        AND seq BETWEEN CAST(r.range ->> 3 AS bigint) AND CAST(r.range ->> 4 AS bigint)
    OFFSET 0
) AS i
UNION ALL
SELECT -1, c.place - 1, 0, k.slots
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) WITH ORDINALITY AS c (key, place)
CROSS JOIN LATERAL (
    SELECT slots FROM {checkpoints}
    WHERE thread_id = c.key ->> 0 AND checkpoint_ns = c.key ->> 1 AND checkpoint_id = c.key ->> 2
    OFFSET 0
) AS k

-- name: present
-- How many of some checkpoints are there.
SELECT count(*) FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (key)
CROSS JOIN LATERAL (
    SELECT 1 FROM {checkpoints}
    WHERE thread_id = c.key ->> 0 AND checkpoint_ns = c.key ->> 1 AND checkpoint_id = c.key ->> 2
    OFFSET 0
) AS k

-- name: writes
-- The pending writes of some checkpoints to some channels.
SELECT 1, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.idx, w.data,
    NULL::bytea, NULL::bytea
FROM jsonb_array_elements(CAST(:checkpoints AS jsonb)) AS c (checkpoint)
CROSS JOIN LATERAL (
    SELECT * FROM {writes}
    WHERE thread_id = c.checkpoint ->> 0 AND checkpoint_ns = c.checkpoint ->> 1 AND checkpoint_id = c.checkpoint ->> 2
    OFFSET 0
) AS w
WHERE w.channel IN (SELECT jsonb_array_elements_text(CAST(:channels AS jsonb)))

-- name: put
-- New checkpoints with their items, all or none of each. A checkpoint whose base is gone is left out; an item whose
-- number is taken fails the statement. Empty stands for NULL in the arrays, so that their types are always the same. The lock keeps the threads' other checkpoints and items from being removed.
WITH locked AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(hashtextextended(t.thread_id, {lock}))
    FROM (SELECT DISTINCT thread_id FROM unnest(:thread_id::text[]) AS a (thread_id) ORDER BY thread_id) AS t
), base AS MATERIALIZED (
    SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id
    FROM unnest(:thread_id::text[], :checkpoint_ns::text[], :base::text[], :base_slots::bytea[])
        AS b (thread_id, checkpoint_ns, checkpoint_id, slots)
    JOIN {checkpoints} AS c ON c.thread_id = b.thread_id AND c.checkpoint_ns = b.checkpoint_ns
        AND c.checkpoint_id = b.checkpoint_id AND c.slots = b.slots
    WHERE (SELECT count(*) FROM locked) > 0
    FOR KEY SHARE OF c
), added AS MATERIALIZED (
    SELECT p.*
    FROM unnest(
        :thread_id::text[], :checkpoint_ns::text[], :checkpoint_id::text[], :parent_checkpoint_id::text[],
        :run_id::text[], :checkpoint::bytea[], :slots::bytea[], :metadata::text[], :metadata_exact::bytea[],
        :base::text[]
    ) WITH ORDINALITY AS p (
        thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata,
        metadata_exact, base, place
    )
    WHERE (SELECT count(*) FROM locked) > 0 AND (p.base = '' OR EXISTS (
        SELECT FROM base
        WHERE base.thread_id = p.thread_id AND base.checkpoint_ns = p.checkpoint_ns AND base.checkpoint_id = p.base
    ))
), new_items AS (
    INSERT INTO {items} (thread_id, checkpoint_ns, channel, seq, checksum, data)
    SELECT added.thread_id, added.checkpoint_ns, i.channel, i.seq, i.checksum, i.data
    FROM unnest(
        :item_place::bigint[], :item_channel::text[], :item_seq::bigint[], :item_checksum::bigint[], :item_data::bytea[]
    ) AS i (place, channel, seq, checksum, data)
    JOIN added ON added.place = i.place
), new_checkpoints AS (
    INSERT INTO {checkpoints} (
        thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
    )
    SELECT thread_id, checkpoint_ns, checkpoint_id, NULLIF(parent_checkpoint_id, ''), NULLIF(run_id, ''), checkpoint,
        slots, CAST(metadata AS jsonb), NULLIF(metadata_exact, '')
    FROM added
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET
        parent_checkpoint_id = excluded.parent_checkpoint_id, run_id = excluded.run_id,
        checkpoint = excluded.checkpoint, slots = excluded.slots, metadata = excluded.metadata,
        metadata_exact = excluded.metadata_exact
)
SELECT place - 1 FROM added

-- name: insert_writes
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
SELECT * FROM unnest(
    :thread_id::text[], :checkpoint_ns::text[], :checkpoint_id::text[], :task_id::text[], :idx::bigint[],
    :task_path::text[], :channel::text[], :data::bytea[]
)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING

-- name: replace_writes
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
SELECT * FROM unnest(
    :thread_id::text[], :checkpoint_ns::text[], :checkpoint_id::text[], :task_id::text[], :idx::bigint[],
    :task_path::text[], :channel::text[], :data::bytea[]
)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE SET
    task_path = excluded.task_path, channel = excluded.channel, data = excluded.data

-- name: lock_thread
-- Later statements of the transaction see what the puts that held the lock have committed.
SELECT pg_advisory_xact_lock(hashtextextended(:thread_id, {lock}))

-- name: delete_thread
WITH c AS (DELETE FROM {checkpoints} WHERE thread_id = :thread_id),
    i AS (DELETE FROM {items} WHERE thread_id = :thread_id)
DELETE FROM {writes} WHERE thread_id = :thread_id

-- name: copy_thread
WITH c AS (
    INSERT INTO {checkpoints} (
        thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
    )
    SELECT :target, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata,
        metadata_exact
    FROM {checkpoints} WHERE thread_id = :source
), i AS (
    INSERT INTO {items} (thread_id, checkpoint_ns, channel, seq, checksum, data)
    SELECT :target, checkpoint_ns, channel, seq, checksum, data FROM {items} WHERE thread_id = :source
)
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
SELECT :target, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data
FROM {writes} WHERE thread_id = :source
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING

-- name: threads_of_runs
SELECT DISTINCT thread_id FROM {checkpoints}
WHERE run_id IN (SELECT jsonb_array_elements_text(CAST(:run_ids AS jsonb)))

-- name: checkpoints_of_runs
SELECT checkpoint_ns, checkpoint_id FROM {checkpoints}
WHERE thread_id = :thread_id AND run_id IN (SELECT jsonb_array_elements_text(CAST(:run_ids AS jsonb)))

-- name: delete_checkpoints
WITH ids AS (
    SELECT jsonb_array_elements_text(CAST(:checkpoint_ids AS jsonb)) AS id
), w AS (
    DELETE FROM {writes}
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id IN (SELECT id FROM ids)
)
DELETE FROM {checkpoints}
WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND checkpoint_id IN (SELECT id FROM ids)

-- name: delete_items
DELETE FROM {items} AS i USING jsonb_array_elements(CAST(:items AS jsonb)) AS g (item)
WHERE i.thread_id = :thread_id AND i.checkpoint_ns = :checkpoint_ns
    AND i.channel = g.item ->> 0 AND i.seq = CAST(g.item ->> 1 AS bigint)

-- name: has_migrations
-- Not to_regclass(): after waiting for the lock it may still answer from before.
SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = {migrations_name} AND n.nspname = ANY (
    CASE WHEN {schema_name} IS NULL THEN current_schemas(false) ELSE ARRAY[CAST({schema_name} AS name)] END
)

-- name: applied_migrations
SELECT version FROM {migrations} ORDER BY version

-- name: lock_migrations
SELECT pg_advisory_xact_lock({lock})

-- name: record_migration
INSERT INTO {migrations} (version, name) VALUES (:version, :name)
