-- name: threads paged
SELECT t.thread_id, t.updated_at FROM {threads} AS t {where} ORDER BY t.thread_id LIMIT :limit
-- name: threads.beyond
t.thread_id > :beyond
