-- What takes the bytes: the lengths of what is stored, without what the database adds.

-- name: size_threads
SELECT thread_id, sum(checkpoints), sum(items), sum(writes), sum(rows) FROM (
    SELECT thread_id, sum({+size_of_checkpoint}) AS checkpoints, 0 AS items, 0 AS writes, count(*) AS rows
    FROM {checkpoints} GROUP BY thread_id
    UNION ALL
    SELECT thread_id, 0, sum(length(data)), 0, count(*) FROM {items} GROUP BY thread_id
    UNION ALL
    SELECT thread_id, 0, 0, sum(length(data)), count(*) FROM {writes} GROUP BY thread_id
) AS parts
GROUP BY thread_id
ORDER BY sum(checkpoints) + sum(items) + sum(writes) DESC, thread_id
LIMIT :limit

-- name: size_channels
SELECT kind, channel, sum(size), sum(rows), max(largest) FROM (
    SELECT 'value' AS kind, channel, sum(length(data)) AS size, count(*) AS rows, max(length(data)) AS largest
    FROM {items} {where} GROUP BY channel
    UNION ALL
    SELECT 'write', channel, sum(length(data)), count(*), max(length(data)) FROM {writes} {where} GROUP BY channel
    UNION ALL
    SELECT 'checkpoint', '', sum({+size_of_checkpoint}), count(*), max({+size_of_checkpoint}) FROM {checkpoints} {where}
) AS parts
WHERE rows > 0
GROUP BY kind, channel
ORDER BY sum(size) DESC, kind, channel
LIMIT :limit
-- name: size_channels.thread_id
thread_id = :thread_id
