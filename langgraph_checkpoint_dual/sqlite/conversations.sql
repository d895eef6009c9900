-- name: items_holding
-- The numbers of items, of some ranges, whose bytes hold one of some texts.
SELECT DISTINCT i.seq
FROM json_each(:ranges) AS r CROSS JOIN {items} AS i
WHERE i.thread_id = json_extract(r.value, '$[0]') AND i.checkpoint_ns = json_extract(r.value, '$[1]')
    AND i.channel = json_extract(r.value, '$[2]')
    AND i.seq BETWEEN json_extract(r.value, '$[3]') AND json_extract(r.value, '$[4]')
    AND EXISTS (
        SELECT 1 FROM json_each(:texts) AS t WHERE instr(CAST(i.data AS BLOB), CAST(t.value AS BLOB)) > 0
    )
