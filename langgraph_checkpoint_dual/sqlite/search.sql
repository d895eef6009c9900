-- Words of messages, for savers with search=True. FTS5 keeps the index; the words themselves are in a table of our own,
-- which triggers keep in step with the index and with the items.

-- name: has_search
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = {search_name}

-- name: make_search_1
CREATE TABLE {search} (
    id INTEGER PRIMARY KEY,
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    channel TEXT NOT NULL,
    seq INTEGER NOT NULL,
    added_at INTEGER NOT NULL,
    words TEXT NOT NULL,
    place TEXT NOT NULL,
    UNIQUE (thread_id, checkpoint_ns, channel, seq)
)

-- name: make_search_2
-- A word is what is between blanks. `place` makes a thread a word, so that the index finds the messages of threads.
CREATE VIRTUAL TABLE {search_index} USING fts5(words, place, content={search}, content_rowid='id', tokenize='ascii')

-- name: make_search_3
CREATE TRIGGER {search_added} AFTER INSERT ON {search} BEGIN
    INSERT INTO {search_index} (rowid, words, place) VALUES (new.id, new.words, new.place); END

-- name: make_search_4
CREATE TRIGGER {search_removed} AFTER DELETE ON {search} BEGIN
    INSERT INTO {search_index} ({search_index}, rowid, words, place)
    VALUES ('delete', old.id, old.words, old.place); END

-- name: make_search_5
CREATE TRIGGER {search_of_items} AFTER DELETE ON {items} WHEN old.checkpoint_ns = '' BEGIN
    DELETE FROM {search} WHERE thread_id = old.thread_id AND checkpoint_ns = old.checkpoint_ns
        AND channel = old.channel AND seq = old.seq; END

-- name: any_item
SELECT 1 FROM {items} LIMIT 1

-- name: load_search
INSERT INTO {search} (thread_id, checkpoint_ns, channel, seq, added_at, words, place)
SELECT thread_id, checkpoint_ns, channel, seq, ?5, ?6, hex(thread_id)
FROM {items} WHERE thread_id = ?1 AND checkpoint_ns = ?2 AND channel = ?3 AND seq = ?4
ON CONFLICT (thread_id, checkpoint_ns, channel, seq) DO NOTHING

-- name: copy_search
INSERT INTO {search} (thread_id, checkpoint_ns, channel, seq, added_at, words, place)
SELECT :target, checkpoint_ns, channel, seq, added_at, words, hex(:target) FROM {search} WHERE thread_id = :source
ON CONFLICT (thread_id, checkpoint_ns, channel, seq) DO NOTHING

-- name: clear_search
-- The index is made anew before, so that the triggers find in it what they take out, even if it was damaged.
INSERT INTO {search_index} ({search_index}) VALUES ('rebuild');
DELETE FROM {search}

-- name: search
-- The messages with some words, best first: (thread, number, score).
SELECT s.thread_id, s.seq, -bm25({search_index}, 1.0, 0.0) AS score
FROM {search_index} CROSS JOIN {search} AS s ON s.id = {search_index}.rowid
{where}
ORDER BY score DESC, s.added_at DESC, s.id DESC
LIMIT :limit OFFSET :offset

-- name: search.channel
s.channel = :channel
-- name: search.anywhere
{search_index} MATCH :fts
-- name: search.thread_id
{search_index} MATCH (:fts || ' AND place : "' || hex(:thread_id) || '"')
-- name: search.user_id
-- The index finds the messages of a few threads, but not those of thousands.
{search_index} MATCH CASE
    WHEN (SELECT count(*) FROM (SELECT 1 FROM {threads} WHERE user_id = :user_id LIMIT 301)) > 300 THEN :fts
    ELSE :fts || ' AND place : (' || coalesce(
        (SELECT group_concat('"' || hex(thread_id) || '"', ' OR ') FROM {threads} WHERE user_id = :user_id), '"none"'
    ) || ')' END AND s.thread_id IN (SELECT thread_id FROM {threads} WHERE user_id = :user_id)
-- name: search.of_user
s.thread_id IN (SELECT thread_id FROM {threads} WHERE user_id = :user_id)

-- name: heads
-- The latest checkpoints of the root namespace of some threads, and how their values are stored.
SELECT t.value, c.checkpoint_id, CAST(c.slots AS BLOB)
FROM json_each(:threads) AS t CROSS JOIN {checkpoints} AS c
WHERE c.thread_id = t.value AND c.checkpoint_ns = '' AND c.checkpoint_id = (
    SELECT max(checkpoint_id) FROM {checkpoints} WHERE thread_id = t.value AND checkpoint_ns = ''
)

-- name: count_searched_items
SELECT count(*) FROM {items} WHERE checkpoint_ns = '' AND channel = :channel

-- name: searched_items
-- The next items that should be indexed: (thread, number, time, whether it is, its data if not).
SELECT i.thread_id, i.seq, i.added_at, s.id IS NOT NULL, CASE WHEN s.id IS NULL THEN CAST(i.data AS BLOB) END
FROM {items} AS i LEFT JOIN {search} AS s ON s.thread_id = i.thread_id AND s.checkpoint_ns = i.checkpoint_ns
    AND s.channel = i.channel AND s.seq = i.seq
WHERE i.checkpoint_ns = '' AND i.channel = :channel AND (i.thread_id, i.seq) > (:after_thread, :after_seq)
ORDER BY i.thread_id, i.seq
LIMIT :limit
