-- name: reseal_items
-- Items with other MACs.
UPDATE {items} AS i SET data = r.data
FROM unnest(
    :thread_id::text[], :checkpoint_ns::text[], :channel::text[], :seq::bigint[], :added_at::bigint[],
    :checksum::bigint[], :tag::bigint[], :data::bytea[]
) AS r (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)
WHERE i.thread_id = r.thread_id AND i.checkpoint_ns = r.checkpoint_ns AND i.channel = r.channel AND i.seq = r.seq
