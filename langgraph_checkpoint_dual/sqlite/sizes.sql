-- name: size_of_checkpoint
length(checkpoint) + length(slots) + length(metadata) + coalesce(length(metadata_exact), 0)

-- name: size_is_known
-- Whether SQLite can tell the bytes of a table.
SELECT 1 FROM pragma_module_list WHERE name = 'dbstat'

-- name: size_place
-- The file that is looked at: that of the connection, unless one with official tables was attached for a look.
coalesce((SELECT name FROM pragma_database_list WHERE name = 'official'), 'main')

-- name: size_tables
-- (table, bytes of its rows, bytes of its indexes), ours and the official ones.
SELECT t.name, sum(CASE WHEN d.name = t.name THEN d.pgsize ELSE 0 END),
    sum(CASE WHEN d.name <> t.name THEN d.pgsize ELSE 0 END)
FROM (
    SELECT 'checkpoints' AS name UNION ALL SELECT 'writes' UNION ALL SELECT name FROM sqlite_master
    WHERE type = 'table'
        AND substr(name, 1, length({migrations_name}) - 10) = substr({migrations_name}, 1, length({migrations_name}) - 10)
) AS t
JOIN dbstat AS d ON d.schema = {+size_place} AND d.aggregate = TRUE
    AND (d.name = t.name OR d.name IN (SELECT name FROM pragma_index_list(t.name)))
GROUP BY t.name
ORDER BY sum(d.pgsize) DESC, t.name

-- name: size_database
-- (bytes of the file, bytes of it that are free)
SELECT p.page_count * s.page_size,
    CASE WHEN p.schema = 'main' THEN (SELECT freelist_count FROM pragma_freelist_count) * s.page_size END
FROM pragma_page_count AS p, pragma_page_size AS s
WHERE p.schema = {+size_place} AND s.schema = p.schema

-- name: official_size_threads
-- The largest threads of the official tables: (thread, bytes of checkpoints, of values apart, of writes, rows).
SELECT thread_id, sum(checkpoints), 0, sum(writes), sum(rows) FROM (
    SELECT thread_id, sum(length(checkpoint) + coalesce(length(metadata), 0)) AS checkpoints, 0 AS writes,
        count(*) AS rows
    FROM "checkpoints" GROUP BY thread_id
    UNION ALL
    SELECT thread_id, 0, sum(coalesce(length(value), 0)), count(*) FROM "writes" GROUP BY thread_id
) AS parts
GROUP BY thread_id
ORDER BY sum(checkpoints) + sum(writes) DESC, thread_id
LIMIT :limit

-- name: official_size_channels
SELECT kind, channel, size, rows, largest FROM (
    SELECT 'write' AS kind, channel, sum(coalesce(length(value), 0)) AS size, count(*) AS rows,
        max(coalesce(length(value), 0)) AS largest
    FROM "writes" {where} GROUP BY channel
    UNION ALL
    SELECT 'checkpoint', '', sum(length(checkpoint) + coalesce(length(metadata), 0)), count(*),
        max(length(checkpoint) + coalesce(length(metadata), 0))
    FROM "checkpoints" {where}
) AS parts
WHERE rows > 0
ORDER BY size DESC, kind, channel
LIMIT :limit
-- name: official_size_channels.thread_id
thread_id = :thread_id
