-- name: items_holding
-- The numbers of items, of some ranges, whose bytes hold one of some texts.
SELECT DISTINCT i.seq
FROM jsonb_array_elements(CAST(:ranges AS jsonb)) AS r (range)
CROSS JOIN LATERAL (
    SELECT seq, data FROM {items}
    WHERE thread_id = r.range ->> 0 AND checkpoint_ns = r.range ->> 1 AND channel = r.range ->> 2
        AND seq BETWEEN CAST(r.range ->> 3 AS bigint) AND CAST(r.range ->> 4 AS bigint)
    OFFSET 0
) AS i
WHERE EXISTS (
    SELECT FROM jsonb_array_elements_text(CAST(:texts AS jsonb)) AS t (text)
    WHERE position(convert_to(t.text, 'UTF8') IN i.data) > 0
)
