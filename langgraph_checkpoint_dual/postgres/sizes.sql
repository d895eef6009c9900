-- name: size_of_checkpoint
length(checkpoint) + length(slots) + length(CAST(metadata AS TEXT)) + coalesce(length(metadata_exact), 0)

-- name: size_is_known
SELECT 1

-- name: size_tables
-- (table, bytes of its rows, bytes of its indexes), ours and the official ones.
SELECT c.relname::text, pg_table_size(c.oid), pg_indexes_size(c.oid)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = ANY (
    CASE WHEN {schema_name} IS NULL THEN current_schemas(false) ELSE ARRAY[CAST({schema_name} AS name)] END
) AND (
    c.relname IN ('checkpoints', 'checkpoint_blobs', 'checkpoint_writes')
    OR left(c.relname::text, length({migrations_name}) - 10) = left({migrations_name}, length({migrations_name}) - 10)
)
ORDER BY pg_total_relation_size(c.oid) DESC, 1

-- name: size_database
-- (bytes of the database, bytes of it that are free, which Postgres does not tell)
SELECT pg_database_size(current_database()), NULL::bigint
