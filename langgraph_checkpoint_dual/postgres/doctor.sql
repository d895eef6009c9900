-- name: doctor_integrity
-- What the database itself says of its state: indexes that it does not use because their making failed.
SELECT 'index ' || c.relname || ' is invalid, so it is not used; REINDEX makes it anew'
FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND {+doctor_ours}

-- name: doctor_ours
n.nspname = ANY (
    CASE WHEN {schema_name} IS NULL THEN current_schemas(false) ELSE ARRAY[CAST({schema_name} AS name)] END
) AND left(c.relname::text, length({migrations_name}) - 10) = left({migrations_name}, length({migrations_name}) - 10)

-- name: doctor_schema
-- The tables and indexes that are there, by the names that they have without their prefix.
SELECT substr(c.relname::text, length({migrations_name}) - 9)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'i', 'I') AND {+doctor_ours}

-- name: doctor_add_thread
INSERT INTO {threads} (thread_id, created_at, updated_at, user_id, title, run_metadata)
VALUES (:thread_id, :created_at, :updated_at, :user_id, :title, CAST(:run_metadata AS jsonb))
ON CONFLICT (thread_id) DO NOTHING
