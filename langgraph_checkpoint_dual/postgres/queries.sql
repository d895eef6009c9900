-- The queries that are Postgres' own. Lists come as JSON text, new rows as one array a column.

-- name: page.filter
metadata @> CAST(:needle AS jsonb) AND NOT EXISTS (
    SELECT FROM jsonb_array_elements_text(CAST(:nulls AS jsonb)) AS n (key)
    WHERE coalesce(metadata -> n.key, 'null') <> 'null'
)

-- name: items
-- The items of some ranges of numbers: (place in the list of ranges, number, time, checksum, data), and as they are in the
-- same moment the slots of some checkpoints: (-1, place in the list of checkpoints, 0, 0, slots).
-- OFFSET 0 keeps the planner from any plan but one index scan for each.
SELECT r.place - 1, i.seq, i.added_at, i.checksum, {+piece}
{+from_ranges}
UNION ALL
SELECT -1, c.place - 1, 0, 0, k.slots
{+from_keys}

-- name: rows_of_items
-- As `items`, with their tags before the data.
SELECT r.place - 1, i.seq, i.added_at, i.checksum, i.tag, {+piece}
{+from_ranges}
UNION ALL
SELECT -1, c.place - 1, 0, 0, NULL, k.slots
{+from_keys}

-- name: from_ranges
FROM jsonb_array_elements(CAST(:ranges AS jsonb)) WITH ORDINALITY AS r (range, place)
CROSS JOIN LATERAL (
    SELECT *, generate_series(1, greatest(octet_length(data), 1), 131072) AS at
    FROM (
        SELECT seq, added_at, checksum, tag,
            CASE WHEN octet_length(data) > 131072 THEN data || ''::bytea ELSE data END AS data
        FROM {items}
        WHERE thread_id = r.range ->> 0 AND checkpoint_ns = r.range ->> 1 AND channel = r.range ->> 2
            AND seq BETWEEN CAST(r.range ->> 3 AS bigint) AND CAST(r.range ->> 4 AS bigint)
        OFFSET 0
    ) AS found
    OFFSET 0
) AS i

-- name: piece
-- Data of more than 131,072 bytes as several rows (postgres/pieces.py). It was made one value by `||`: of what is stored
-- compressed, each piece would otherwise be found by unpacking all before it.
CASE WHEN octet_length(i.data) > 131072 THEN substring(i.data FROM i.at FOR 131072) ELSE i.data END

-- name: from_keys
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

-- name: stands
-- Whether the guard of an addition `g` lets it in; none is ''. The advisory lock, taken before anything is looked at, keeps
-- the thread's checkpoints and items from being removed. Who waited for it still sees what was there before: what has no
-- xmax was never removed, and of the rest the row lock finds out what is there now. To lock all rows would write to each.
-- OFFSET 0: see `items`. A plan made while the tables were nearly empty would otherwise read them whole later on.
CASE
    WHEN pg_advisory_xact_lock_shared(hashtextextended(g.thread_id, {lock})) IS NULL THEN false
    WHEN g.guard_id = '' THEN true
    ELSE coalesce(
        (
            SELECT CASE
                WHEN c.xmax = 0 THEN g.guard_slots = '' OR c.slots = g.guard_slots
                ELSE EXISTS (
                    SELECT FROM {checkpoints}
                    WHERE thread_id = g.thread_id AND checkpoint_ns = g.guard_ns AND checkpoint_id = g.guard_id
                        AND (g.guard_slots = '' OR slots = g.guard_slots)
                    FOR KEY SHARE
                )
            END
            FROM {checkpoints} AS c
            WHERE c.thread_id = g.thread_id AND c.checkpoint_ns = g.guard_ns AND c.checkpoint_id = g.guard_id
        ),
        g.guard_slots = '' AND NOT EXISTS (
            SELECT FROM {tombstones} AS t WHERE t.thread_id = g.thread_id AND t.checkpoint_id >= g.guard_id OFFSET 0
        )
    )
END

-- name: let_in
-- One row if the guard of a single addition lets it in.
let_in AS MATERIALIZED (
    SELECT FROM (
        SELECT :thread_id::text AS thread_id, :guard_ns::text AS guard_ns, :guard_id::text AS guard_id,
            :guard_slots::bytea AS guard_slots
    ) AS g
    WHERE {+stands}
)

-- name: put
-- New checkpoints with their items, all or none of each; an id or an item's number that is taken fails the statement.
-- They come in the order of their threads, so that these are locked in the same order everywhere.
WITH {+put_rows}
SELECT place - 1 FROM added

-- name: put_rows
-- In arrays empty stands for NULL, so that their types are always the same.
added AS MATERIALIZED (
    SELECT g.*
    FROM unnest(
        :thread_id::text[], :checkpoint_ns::text[], :checkpoint_id::text[], :parent_checkpoint_id::text[],
        :run_id::text[], :checkpoint::bytea[], :slots::bytea[], :metadata::text[], :metadata_exact::bytea[],
        :at::bigint[], :user_id::text[], :title::text[], :run_metadata::text[], :guard_ns::text[], :guard_id::text[],
        :guard_slots::bytea[]
    ) WITH ORDINALITY AS g (
        thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata,
        metadata_exact, at, user_id, title, run_metadata, guard_ns, guard_id, guard_slots, place
    )
    WHERE {+stands}
), new_items AS (
    INSERT INTO {items} (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)
    SELECT added.thread_id, added.checkpoint_ns, i.channel, i.seq, i.added_at, i.checksum, NULLIF(i.tag, 0), i.data
    FROM unnest(
        :item_place::bigint[], :item_channel::text[], :item_seq::bigint[], :item_added_at::bigint[],
        :item_checksum::bigint[], :item_tag::bigint[], :item_data::bytea[]
    ) AS i (place, channel, seq, added_at, checksum, tag, data)
    JOIN added ON added.place = i.place
), new_checkpoints AS (
    INSERT INTO {checkpoints} (
        thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
    )
    SELECT thread_id, checkpoint_ns, checkpoint_id, NULLIF(parent_checkpoint_id, ''), NULLIF(run_id, ''), checkpoint,
        slots, CAST(metadata AS jsonb), NULLIF(metadata_exact, '')
    FROM added
), touched AS (
    INSERT INTO {threads} AS t (thread_id, created_at, updated_at, user_id, title, run_metadata)
    SELECT DISTINCT ON (thread_id) thread_id, at, at, NULLIF(user_id, ''), NULLIF(title, ''), CAST(run_metadata AS jsonb)
    FROM added WHERE at > 0
    ORDER BY thread_id, place DESC
    ON CONFLICT (thread_id) DO UPDATE SET
        updated_at = greatest(t.updated_at, excluded.updated_at), user_id = coalesce(excluded.user_id, t.user_id),
        title = coalesce(excluded.title, t.title), run_metadata = excluded.run_metadata
)

-- name: put_one
-- As `put`, for a single checkpoint without items.
WITH {+let_in}, {+its_thread}
{+its_row}

-- name: put_one_with_items
WITH {+let_in}, new_items AS (
    INSERT INTO {items} (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)
    SELECT :thread_id::text, :checkpoint_ns::text, unnest(CAST(:item_channel AS text[])),
        unnest(CAST(:item_seq AS bigint[])), unnest(CAST(:item_added_at AS bigint[])),
        unnest(CAST(:item_checksum AS bigint[])), NULLIF(unnest(CAST(:item_tag AS bigint[])), 0),
        unnest(CAST(:item_data AS bytea[]))
    FROM let_in
), {+its_thread}
{+its_row}

-- name: its_thread
touched AS (
    INSERT INTO {threads} AS t (thread_id, created_at, updated_at, user_id, title, run_metadata)
    SELECT :thread_id::text, :at::bigint, :at::bigint, NULLIF(:user_id::text, ''), NULLIF(:title::text, ''),
        CAST(:run_metadata::text AS jsonb)
    FROM let_in WHERE :at::bigint > 0
    ON CONFLICT (thread_id) DO UPDATE SET
        updated_at = greatest(t.updated_at, excluded.updated_at), user_id = coalesce(excluded.user_id, t.user_id),
        title = coalesce(excluded.title, t.title), run_metadata = excluded.run_metadata
)

-- name: its_row
INSERT INTO {checkpoints} (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
)
SELECT :thread_id::text, :checkpoint_ns::text, :checkpoint_id::text, NULLIF(:parent_checkpoint_id::text, ''),
    NULLIF(:run_id::text, ''), :checkpoint::bytea, :slots::bytea, CAST(:metadata::text AS jsonb),
    NULLIF(:metadata_exact::bytea, '')
FROM let_in
RETURNING 0

-- name: put_writes_of_one
-- As `put_writes`, for a single task.
WITH {+let_in}, kept AS (
    {+its_writes}
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
)
SELECT 0 FROM let_in

-- name: replace_writes_of_one
WITH {+let_in}, replaced AS (
    {+its_writes}
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE SET
        task_path = excluded.task_path, channel = excluded.channel, data = excluded.data
)
SELECT 0 FROM let_in

-- name: its_writes
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
    SELECT :thread_id::text, :guard_ns::text, :guard_id::text, :task_id::text, unnest(CAST(:idx AS bigint[])),
        :task_path::text, unnest(CAST(:channel AS text[])), unnest(CAST(:data AS bytea[]))
    FROM let_in

-- name: put_writes
-- Pending writes, all or none of each task's. Rows that are there stay. For the order of tasks see `put`.
WITH {+allowed}, kept AS (
    {+all_writes}
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
)
SELECT place - 1 FROM allowed

-- name: replace_writes
-- As `put_writes`, in place of the rows that are there.
WITH {+allowed}, replaced AS (
    {+all_writes}
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE SET
        task_path = excluded.task_path, channel = excluded.channel, data = excluded.data
)
SELECT place - 1 FROM allowed

-- name: allowed
allowed AS MATERIALIZED (
    SELECT g.*
    FROM unnest(:thread_id::text[], :guard_ns::text[], :guard_id::text[], :guard_slots::bytea[])
        WITH ORDINALITY AS g (thread_id, guard_ns, guard_id, guard_slots, place)
    WHERE {+stands}
)

-- name: all_writes
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
    SELECT g.thread_id, g.guard_ns, g.guard_id, w.task_id, w.idx, w.task_path, w.channel, w.data
    FROM unnest(
        :write_place::bigint[], :task_id::text[], :idx::bigint[], :task_path::text[], :channel::text[], :data::bytea[]
    ) AS w (place, task_id, idx, task_path, channel, data)
    JOIN allowed AS g ON g.place = w.place
    ORDER BY g.thread_id, g.guard_ns, g.guard_id, w.task_id, w.idx

-- name: share_thread
-- What additions take first.
SELECT pg_advisory_xact_lock_shared(hashtextextended(:thread_id, {lock}))

-- name: lock_thread
-- Later statements of the transaction see what the puts that held the lock have committed.
SELECT pg_advisory_xact_lock(hashtextextended(:thread_id, {lock}))

-- name: delete_thread
-- What is left is the highest id that the thread had, for a while: runs that began before may still put.
WITH c AS (DELETE FROM {checkpoints} WHERE thread_id = :thread_id RETURNING checkpoint_id),
    w AS (DELETE FROM {writes} WHERE thread_id = :thread_id RETURNING checkpoint_id),
    i AS (DELETE FROM {items} WHERE thread_id = :thread_id),
    t AS (DELETE FROM {threads} WHERE thread_id = :thread_id),
    u AS (DELETE FROM {current_threads} WHERE thread_id = :thread_id),
    old AS (DELETE FROM {tombstones} WHERE deleted_at < :expired AND thread_id <> :thread_id)
INSERT INTO {tombstones} AS t (thread_id, checkpoint_id, deleted_at)
SELECT :thread_id, max(checkpoint_id), :at FROM (SELECT checkpoint_id FROM c UNION ALL SELECT checkpoint_id FROM w) AS gone
HAVING max(checkpoint_id) IS NOT NULL
ON CONFLICT (thread_id) DO UPDATE SET
    checkpoint_id = greatest(t.checkpoint_id, excluded.checkpoint_id), deleted_at = excluded.deleted_at

-- name: copy_thread
WITH c AS (
    INSERT INTO {checkpoints} (
        thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata, metadata_exact
    )
    SELECT :target, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, checkpoint, slots, metadata,
        metadata_exact
    FROM {checkpoints} WHERE thread_id = :source
), i AS (
    INSERT INTO {items} (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)
    SELECT :target, checkpoint_ns, channel, seq, added_at, checksum, tag # CAST(:between AS bigint), data
    FROM {items} WHERE thread_id = :source
), t AS (
    INSERT INTO {threads} (thread_id, created_at, updated_at, user_id, title, metadata, run_metadata)
    SELECT :target, :at, updated_at, user_id, title, metadata, run_metadata FROM {threads} WHERE thread_id = :source
    ON CONFLICT (thread_id) DO NOTHING
)
INSERT INTO {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data)
SELECT :target, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data
FROM {writes} WHERE thread_id = :source
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING

-- name: threads_of_runs
SELECT DISTINCT thread_id FROM {checkpoints}
WHERE run_id IN (SELECT jsonb_array_elements_text(CAST(:run_ids AS jsonb)))

-- name: checkpoints_of_runs
SELECT checkpoint_ns, checkpoint_id, CAST(metadata AS TEXT) FROM {checkpoints}
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
