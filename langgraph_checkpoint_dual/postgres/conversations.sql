-- name: items_tagged
-- The numbers of a channel's items that have one of some tags.
-- OFFSET 0 keeps the planner from any plan but one index scan for each.
SELECT DISTINCT i.seq
FROM jsonb_array_elements_text(CAST(:tags AS jsonb)) AS t (tag)
CROSS JOIN LATERAL (
    SELECT seq FROM {items}
    WHERE thread_id = :thread_id AND checkpoint_ns = :checkpoint_ns AND channel = :channel
        AND tag = CAST(t.tag AS bigint)
    OFFSET 0
) AS i
