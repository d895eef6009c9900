-- name: doctor_integrity
-- What the database itself says of its state: nothing if it is sound.
SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'

-- name: doctor_schema
-- The tables and indexes that are there, by the names that they have without their prefix.
SELECT substr(name, length({migrations_name}) - 9) FROM sqlite_master
WHERE type IN ('table', 'index')
    AND substr(name, 1, length({migrations_name}) - 10) = substr({migrations_name}, 1, length({migrations_name}) - 10)

-- name: doctor_add_thread
INSERT INTO {threads} (thread_id, created_at, updated_at, user_id, title, run_metadata)
VALUES (:thread_id, :created_at, :updated_at, :user_id, :title, :run_metadata)
ON CONFLICT (thread_id) DO NOTHING
