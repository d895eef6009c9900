-- The registry of threads. What the checkpoints tell is looked up for the threads of the page only.

-- name: threads
WITH page AS (
    SELECT t.*, (
        SELECT max(c.checkpoint_id) FROM {checkpoints} AS c WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
    ) AS head
    FROM {threads} AS t
    {where}
    {order}
    LIMIT :limit
)
SELECT thread_id, updated_at, created_at, user_id, title, CAST(metadata AS TEXT), CAST(run_metadata AS TEXT),
    (SELECT count(*) FROM {checkpoints} AS c WHERE c.thread_id = page.thread_id), head,
    (SELECT min(w.channel) FROM {writes} AS w WHERE w.thread_id = page.thread_id AND w.checkpoint_ns = ''
        AND w.checkpoint_id = page.head AND w.channel IN ('__error__', '__interrupt__'))
FROM page

-- name: threads by updated
ORDER BY t.updated_at DESC, t.thread_id DESC
-- name: threads by created
ORDER BY t.created_at DESC, t.thread_id DESC
-- name: threads.thread_id
t.thread_id = :thread_id
-- name: threads.user_id
t.user_id = :user_id
-- name: threads.updated_after
t.updated_at > :updated_after
-- name: threads.updated_before
t.updated_at < :updated_before
-- name: threads.after_updated
(t.updated_at, t.thread_id) < (:after_at, :after_thread)
-- name: threads.after_created
(t.created_at, t.thread_id) < (:after_at, :after_thread)
-- name: threads.is_idle
{+channel_of_thread} IS NULL
-- name: threads.status
-- The list, which has an index of its own, is short.
t.thread_id IN (
    SELECT w.thread_id FROM {writes} AS w WHERE w.checkpoint_ns = '' AND w.channel IN ('__error__', '__interrupt__')
) AND {+channel_of_thread} = :status

-- name: channel_of_thread
(
    SELECT min(w.channel) FROM {writes} AS w
    WHERE w.thread_id = t.thread_id AND w.checkpoint_ns = '' AND w.channel IN ('__error__', '__interrupt__')
        AND w.checkpoint_id = (
            SELECT max(c.checkpoint_id) FROM {checkpoints} AS c WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
        )
)

-- name: threads counted
SELECT count(*) FROM {threads} AS t {where}

-- name: threads paged
-- The next threads, in the order of their ids, and when they were updated.
SELECT t.thread_id, t.updated_at FROM {threads} AS t {where} ORDER BY t.thread_id LIMIT :limit
-- name: threads.beyond
t.thread_id > :beyond

-- name: metadata_of_thread
SELECT CAST(metadata AS TEXT), CAST(run_metadata AS TEXT) FROM {threads} WHERE thread_id = :thread_id

-- name: forget_thread_metadata
UPDATE {threads} SET metadata = '{}', run_metadata = '{}' WHERE thread_id = :thread_id

-- name: register_thread
INSERT INTO {threads} (thread_id, created_at, updated_at) VALUES (:thread_id, :at, :at)
ON CONFLICT (thread_id) DO NOTHING

-- name: set_thread_user
UPDATE {threads} SET user_id = :user_id WHERE thread_id = :thread_id

-- name: set_thread_title
UPDATE {threads} SET title = :title WHERE thread_id = :thread_id

-- name: current_thread
SELECT thread_id FROM {current_threads} WHERE user_id = :user_id AND agent = :agent

-- name: enter_current_thread
INSERT INTO {current_threads} (user_id, agent, thread_id) VALUES (:user_id, :agent, :thread_id)
ON CONFLICT (user_id, agent) DO UPDATE SET thread_id = excluded.thread_id

-- name: leave_current_thread
DELETE FROM {current_threads} WHERE user_id = :user_id AND agent = :agent
