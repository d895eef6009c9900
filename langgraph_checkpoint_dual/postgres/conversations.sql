-- name: items_tagged
-- The items that have one of some tags: (thread, namespace, channel, number).
-- OFFSET 0 keeps the planner from any plan but one index scan for each.
SELECT i.*
FROM jsonb_array_elements_text(CAST(:tags AS jsonb)) AS t (tag)
CROSS JOIN LATERAL (
    SELECT thread_id, checkpoint_ns, channel, seq FROM {items} WHERE tag = CAST(t.tag AS bigint)
    OFFSET 0
) AS i
