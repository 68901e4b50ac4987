-- register --
INSERT INTO awakeables.instances (
    id, app, host, build, build_started_ms, level, handlers, started_ms, beat_ms, state, key_id
)
SELECT
    $1, $2, $3, $4, coalesce((SELECT min(n.build_started_ms) FROM awakeables.instances AS n WHERE n.build = $4),
                             clock.now_ms),
    $5, $6::text[], clock.now_ms, clock.now_ms, 'alive', $8::text
FROM (SELECT coalesce($7::bigint, @now_ms) AS now_ms) AS clock
ON CONFLICT (id) DO NOTHING

-- forget_dead --
DELETE FROM awakeables.instances AS n
WHERE n.state = 'dead' AND n.beat_ms < coalesce($1::bigint, @now_ms) - 86400000

-- beat --
UPDATE awakeables.instances AS n SET beat_ms = coalesce($2::bigint, @now_ms)
WHERE n.id = $1 AND n.state <> 'dead'
RETURNING n.beat_ms

-- declare_dead --
-- Who writes a heartbeat at this moment is skipped: it lives.
UPDATE awakeables.instances AS n SET state = 'dead'
FROM (
    SELECT late.id FROM awakeables.instances AS late
    WHERE late.beat_ms < $1 AND late.state <> 'dead' ORDER BY late.id FOR UPDATE SKIP LOCKED
) AS late
WHERE n.id = late.id

-- serve --
UPDATE awakeables.instances AS n SET handlers = $2 WHERE n.id = $1

-- leave --
UPDATE awakeables.instances AS n SET state = 'leaving' WHERE n.id = $1 AND n.state = 'alive'

-- gone --
DELETE FROM awakeables.instances AS n WHERE n.id = $1

-- instances --
SELECT n.id, n.host, n.build, n.build_started_ms, n.level, n.handlers, n.started_ms, n.beat_ms, n.state
FROM awakeables.instances AS n ORDER BY n.id

-- sealing_instances --
-- Those that may write, by the last heartbeat, with the keys that they seal with.
SELECT n.id, n.host, n.key_id FROM awakeables.instances AS n
WHERE n.state <> 'dead' AND n.beat_ms > @now_ms - $1::bigint ORDER BY n.id

-- note_read --
-- A partition whose row is being written is left out: its reader notes it again in a moment. A moment that is
-- still to come was noted before the clock was set back, and says nothing.
WITH held AS (
    SELECT o.partition, greatest(CASE WHEN o.fresh_ms <= clock.now_ms THEN o.fresh_ms END,
                                 least(n.up_to_ms, clock.now_ms)) AS fresh_ms
    FROM (SELECT coalesce($5::bigint, @now_ms) AS now_ms) AS clock
    CROSS JOIN unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS n (partition, epoch, up_to_ms)
    JOIN awakeables.offsets AS o
        ON o.subscription = '' AND o.topic = $1 AND o.partition = n.partition AND o.epoch = n.epoch
    ORDER BY o.partition FOR NO KEY UPDATE OF o SKIP LOCKED
)
UPDATE awakeables.offsets AS o SET fresh_ms = held.fresh_ms
FROM held WHERE o.subscription = '' AND o.topic = $1 AND o.partition = held.partition

-- partitions_known --
SELECT t.partitions, t.topic_id FROM awakeables.topics AS t WHERE t.topic = $1

-- note_partitions --
-- A topic only grows, but it may be deleted and created again, which its ID shows.
INSERT INTO awakeables.topics AS t (topic, partitions, topic_id) VALUES ($1, $2, $3)
ON CONFLICT (topic) DO UPDATE
SET partitions = CASE WHEN t.topic_id <> excluded.topic_id THEN excluded.partitions
                      ELSE greatest(t.partitions, excluded.partitions) END,
    topic_id = coalesce(excluded.topic_id, t.topic_id)
RETURNING t.partitions

-- read_up_to --
SELECT CASE WHEN count(o.fresh_ms) = $2 THEN min(o.fresh_ms) END
FROM awakeables.offsets AS o
WHERE o.subscription = '' AND o.topic = $1 AND o.partition < $2 AND o.fresh_ms <= coalesce($3::bigint, @now_ms)

-- notify --
SELECT pg_notify(n.channel, n.payload) FROM unnest($1::text[], $2::text[]) AS n (channel, payload)
