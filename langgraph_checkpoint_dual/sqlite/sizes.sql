-- name: size_of_checkpoint
length(checkpoint) + length(slots) + length(metadata) + coalesce(length(metadata_exact), 0)

-- name: size_is_known
-- Whether SQLite can tell the bytes of a table.
SELECT 1 FROM pragma_module_list WHERE name = 'dbstat'

-- name: size_tables
-- (table, bytes of its rows, bytes of its indexes), ours and the official ones.
SELECT m.tbl_name, sum(CASE WHEN m.type = 'table' THEN d.pgsize ELSE 0 END),
    sum(CASE WHEN m.type = 'index' THEN d.pgsize ELSE 0 END)
FROM dbstat AS d JOIN sqlite_master AS m ON m.name = d.name
WHERE d.aggregate = TRUE AND (
    m.tbl_name IN ('checkpoints', 'writes')
    OR substr(m.tbl_name, 1, length({migrations_name}) - 10) = substr({migrations_name}, 1, length({migrations_name}) - 10)
)
GROUP BY m.tbl_name
ORDER BY sum(d.pgsize) DESC, m.tbl_name

-- name: size_database
-- (bytes of the file, bytes of it that are free)
SELECT page_count * page_size, freelist_count * page_size
FROM pragma_page_count, pragma_page_size, pragma_freelist_count
