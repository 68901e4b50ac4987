-- register --
INSERT INTO awakeables.instances (
    id, app, host, build, build_started_ms, level, handlers, started_ms, beat_ms, state
)
SELECT
    $1, $2, $3, $4, coalesce((SELECT min(n.build_started_ms) FROM awakeables.instances AS n WHERE n.build = $4),
                             clock.now_ms),
    $5, $6::text[], clock.now_ms, clock.now_ms, 'alive'
FROM (SELECT coalesce($7::bigint, @now_ms) AS now_ms) AS clock
ON CONFLICT (id) DO NOTHING

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

-- leave --
UPDATE awakeables.instances AS n SET state = 'leaving' WHERE n.id = $1 AND n.state = 'alive'

-- gone --
DELETE FROM awakeables.instances AS n WHERE n.id = $1

-- instances --
SELECT n.id, n.host, n.build, n.build_started_ms, n.level, n.handlers, n.started_ms, n.beat_ms, n.state
FROM awakeables.instances AS n ORDER BY n.id
