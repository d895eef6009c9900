-- name: size_of_checkpoint
length(checkpoint) + length(slots) + length(CAST(metadata AS TEXT)) + coalesce(length(metadata_exact), 0)

-- name: size_is_known
SELECT 1

-- name: size_tables
-- (table, bytes of its rows, bytes of its indexes), ours and the official ones.
SELECT c.relname::text, pg_table_size(c.oid), pg_indexes_size(c.oid)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname = ANY (
    CASE WHEN {schema_name} IS NULL THEN current_schemas(false) ELSE ARRAY[CAST({schema_name} AS name)] END
) AND (
    c.relname IN ('checkpoints', 'checkpoint_blobs', 'checkpoint_writes')
    OR left(c.relname::text, length({migrations_name}) - 10) = left({migrations_name}, length({migrations_name}) - 10)
)
ORDER BY pg_total_relation_size(c.oid) DESC, 1

-- name: size_database
-- (bytes of the database, bytes of it that are free, which Postgres does not tell)
SELECT pg_database_size(current_database()), NULL::bigint

-- name: official_size_threads
-- The largest threads of the official tables: (thread, bytes of checkpoints, of values apart, of writes, rows).
SELECT thread_id, sum(checkpoints), sum(values), sum(writes), sum(rows) FROM (
    SELECT thread_id, sum(length(CAST(checkpoint AS TEXT)) + length(CAST(metadata AS TEXT))) AS checkpoints,
        0 AS values, 0 AS writes, count(*) AS rows
    FROM checkpoints GROUP BY thread_id
    UNION ALL
    SELECT thread_id, 0, sum(coalesce(length(blob), 0)), 0, count(*) FROM checkpoint_blobs GROUP BY thread_id
    UNION ALL
    SELECT thread_id, 0, 0, sum(length(blob)), count(*) FROM checkpoint_writes GROUP BY thread_id
) AS parts
GROUP BY thread_id
ORDER BY sum(checkpoints) + sum(values) + sum(writes) DESC, thread_id
LIMIT :limit

-- name: official_size_channels
SELECT kind, channel, size, rows, largest FROM (
    SELECT 'value' AS kind, channel, sum(coalesce(length(blob), 0)) AS size, count(*) AS rows,
        max(coalesce(length(blob), 0)) AS largest
    FROM checkpoint_blobs {where} GROUP BY channel
    UNION ALL
    SELECT 'write', channel, sum(length(blob)), count(*), max(length(blob)) FROM checkpoint_writes {where}
    GROUP BY channel
    UNION ALL
    SELECT 'checkpoint', '', sum(length(CAST(checkpoint AS TEXT)) + length(CAST(metadata AS TEXT))), count(*),
        max(length(CAST(checkpoint AS TEXT)) + length(CAST(metadata AS TEXT)))
    FROM checkpoints {where}
) AS parts
WHERE rows > 0
ORDER BY size DESC, kind, channel
LIMIT :limit
-- name: official_size_channels.thread_id
thread_id = :thread_id
