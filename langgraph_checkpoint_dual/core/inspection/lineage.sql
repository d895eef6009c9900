-- name: official_unlisted
-- Threads of the official tables that the registry does not know yet, latest first.
SELECT c.thread_id, count(*), max(c.checkpoint_id) FROM checkpoints AS c
WHERE NOT EXISTS (SELECT 1 FROM {threads} AS t WHERE t.thread_id = c.thread_id)
GROUP BY c.thread_id
ORDER BY max(c.checkpoint_id) DESC, c.thread_id
LIMIT :limit
