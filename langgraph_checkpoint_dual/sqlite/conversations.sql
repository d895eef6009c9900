-- name: items_holding
-- The numbers of items, of some ranges, whose bytes hold one of some texts.
SELECT DISTINCT i.seq
FROM json_each(:ranges) AS r CROSS JOIN {items} AS i
CROSS JOIN (SELECT CAST(value AS BLOB) AS text FROM json_each(:texts) LIMIT -1) AS t
WHERE i.thread_id = json_extract(r.value, '$[0]') AND i.checkpoint_ns = json_extract(r.value, '$[1]')
    AND i.channel = json_extract(r.value, '$[2]')
    AND i.seq BETWEEN json_extract(r.value, '$[3]') AND json_extract(r.value, '$[4]')
    AND instr(i.data, t.text) > 0
