-- name: searched_channel
-- A channel whose messages are indexed.
SELECT channel FROM {search} LIMIT 1

-- name: orphaned_words
-- How many words there are of items that are gone.
SELECT count(*) FROM {search} AS s WHERE NOT EXISTS (
    SELECT 1 FROM {items} AS i WHERE i.thread_id = s.thread_id AND i.checkpoint_ns = s.checkpoint_ns
        AND i.channel = s.channel AND i.seq = s.seq
)

-- name: remove_orphaned_words
DELETE FROM {search} AS s WHERE NOT EXISTS (
    SELECT 1 FROM {items} AS i WHERE i.thread_id = s.thread_id AND i.checkpoint_ns = s.checkpoint_ns
        AND i.channel = s.channel AND i.seq = s.seq
)
