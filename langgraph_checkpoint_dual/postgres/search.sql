-- Words of messages, for savers with search=True. They go with their items.

-- name: has_search
SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = {search_name} AND n.nspname = ANY (
    CASE WHEN {schema_name} IS NULL THEN current_schemas(false) ELSE ARRAY[CAST({schema_name} AS name)] END
)

-- name: make_search_1
CREATE TABLE {search} (
    thread_id TEXT COLLATE "C" NOT NULL,
    checkpoint_ns TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    added_at BIGINT NOT NULL,
    words TSVECTOR NOT NULL,
    PRIMARY KEY (thread_id, checkpoint_ns, channel, seq),
    FOREIGN KEY (thread_id, checkpoint_ns, channel, seq) REFERENCES {items} ON DELETE CASCADE
)

-- name: make_search_2
CREATE INDEX {search_index} ON {search} USING gin (words)

-- name: make_search_3
-- name: make_search_4
-- name: make_search_5

-- name: any_item
SELECT 1 FROM {items} LIMIT 1

-- name: put_with_words
-- As `put`, with the words of messages among the items.
WITH {+put_rows}, new_words AS (
    INSERT INTO {search} (thread_id, checkpoint_ns, channel, seq, added_at, words)
    SELECT added.thread_id, added.checkpoint_ns, r.channel, r.seq, r.added_at, {+lexemes}
    FROM unnest(
        :word_place::bigint[], :word_channel::text[], :word_seq::bigint[], :word_added_at::bigint[], :words::text[]
    ) AS r (place, channel, seq, added_at, words)
    JOIN added ON added.place = r.place
)
SELECT place - 1 FROM added

-- name: lexemes
-- The words become lexemes as they are, past every parser and dictionary.
(
    SELECT CAST(string_agg('''' || w.word || ''':' || w.place, ' ') AS tsvector)
    FROM unnest(string_to_array(r.words, ' ')) WITH ORDINALITY AS w (word, place)
)

-- name: load_search
-- An item that was removed is left out; the threads are locked, so that none is being removed.
INSERT INTO {search} (thread_id, checkpoint_ns, channel, seq, added_at, words)
SELECT i.thread_id, i.checkpoint_ns, i.channel, i.seq, i.added_at, {+lexemes}
FROM unnest(
    :thread_id::text[], :checkpoint_ns::text[], :channel::text[], :seq::bigint[], :added_at::bigint[], :words::text[]
) AS r (thread_id, checkpoint_ns, channel, seq, added_at, words)
JOIN {items} AS i ON i.thread_id = r.thread_id AND i.checkpoint_ns = r.checkpoint_ns AND i.channel = r.channel
    AND i.seq = r.seq
ON CONFLICT (thread_id, checkpoint_ns, channel, seq) DO NOTHING

-- name: copy_search
INSERT INTO {search} (thread_id, checkpoint_ns, channel, seq, added_at, words)
SELECT :target, checkpoint_ns, channel, seq, added_at, words FROM {search} WHERE thread_id = :source
ON CONFLICT (thread_id, checkpoint_ns, channel, seq) DO NOTHING

-- name: clear_search
DELETE FROM {search}

-- name: search
-- The messages with some words, best first: (thread, number, score).
SELECT s.thread_id, s.seq, CAST(ts_rank(s.words, q.query, 1) AS double precision) AS score
FROM (SELECT CAST(CAST(:tsquery AS text) AS tsquery) AS query) AS q CROSS JOIN {search} AS s
{where}
ORDER BY score DESC, s.added_at DESC, s.thread_id, s.seq DESC
LIMIT :limit OFFSET :offset

-- name: search.channel
s.words @@ q.query AND s.channel = :channel
-- name: search.anywhere
true
-- name: search.thread_id
s.thread_id = :thread_id
-- name: search.user_id
s.thread_id IN (SELECT thread_id FROM {threads} WHERE user_id = :user_id)
-- name: search.of_user
s.thread_id IN (SELECT thread_id FROM {threads} WHERE user_id = :user_id)

-- name: heads
-- The latest checkpoints of the root namespace of some threads, and how their values are stored.
SELECT t.thread_id, c.checkpoint_id, c.slots
FROM jsonb_array_elements_text(CAST(:threads AS jsonb)) AS t (thread_id)
CROSS JOIN LATERAL (
    SELECT checkpoint_id, slots FROM {checkpoints}
    WHERE thread_id = t.thread_id AND checkpoint_ns = ''
    ORDER BY checkpoint_id DESC LIMIT 1
) AS c

-- name: count_searched_items
SELECT count(*) FROM {items} WHERE checkpoint_ns = '' AND channel = :channel

-- name: searched_items
-- The next items that should be indexed: (thread, number, time, whether it is, its data if not).
SELECT i.thread_id, i.seq, i.added_at, s.seq IS NOT NULL, CASE WHEN s.seq IS NULL THEN i.data END
FROM {items} AS i LEFT JOIN {search} AS s ON s.thread_id = i.thread_id AND s.checkpoint_ns = i.checkpoint_ns
    AND s.channel = i.channel AND s.seq = i.seq
WHERE i.checkpoint_ns = '' AND i.channel = :channel
    AND (i.thread_id, i.seq) > (CAST(:after_thread AS text), CAST(:after_seq AS bigint))
ORDER BY i.thread_id, i.seq
LIMIT :limit
