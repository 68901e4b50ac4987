-- load_clock --
-- A load is these statements for the tables that it needs, joined by UNION ALL: one statement sees all
-- tables at one instant, and takes one round trip.
SELECT 'clock' AS "table", ROW(@now_ms) AS "row"

-- load_invocations --
SELECT 'invocations', ROW(@invocation_columns, i.rev)
FROM awakeables.invocations AS i WHERE i.id = ANY($1::text[])

-- load_awakeables --
SELECT 'awakeables', ROW(@awakeable_columns, a.rev)
FROM awakeables.awakeables AS a WHERE a.id = ANY($1::text[])

-- load_effects --
SELECT 'effects', ROW(@effect_columns)
FROM awakeables.outbox AS o WHERE o.event_id = ANY($1::text[])

-- load_dead_letters --
SELECT 'dead_letters', ROW(@dead_letter_columns)
FROM awakeables.dead_letters AS d WHERE d.id = ANY($1::text[])

-- load_sources --
SELECT 'sources', ROW(d.source, d.id)
FROM awakeables.dead_letters AS d WHERE d.source = ANY($1::text[])

-- load_keys --
SELECT 'keys', ROW(k.scope, k.key, k.fingerprint, k.invocation_id)
FROM unnest($1::bytea[], $2::bytea[]) AS wanted (scope, key)
JOIN awakeables.idempotency AS k ON k.scope = wanted.scope AND k.key = wanted.key

-- load_positions --
SELECT 'positions', ROW(@position_columns)
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (subscription, topic, partition)
JOIN awakeables.offsets AS p
    ON p.subscription = wanted.subscription AND p.topic = wanted.topic AND p.partition = wanted.partition

-- load_schedules --
SELECT 'schedules', ROW(@schedule_columns)
FROM awakeables.schedules AS s WHERE s.name = ANY($1::text[])

-- load_pauses --
SELECT 'pauses', ROW(@pause_columns)
FROM awakeables.pauses AS u WHERE u.target = ANY($1::text[])

-- load_waiting --
SELECT 'waiting', ROW(convert_from(a.source, 'UTF8'), array_agg(a.id ORDER BY a.id))
FROM awakeables.awakeables AS a
WHERE a.state = 'pending' AND a.source IS NOT NULL AND a.source = ANY($1::bytea[])
GROUP BY a.source

-- load_pending --
SELECT 'pending', ROW(a.invocation_id, array_agg(a.id ORDER BY a.id))
FROM awakeables.awakeables AS a
WHERE a.state = 'pending' AND a.invocation_id = ANY($1::text[])
GROUP BY a.invocation_id

-- lock_positions --
-- Rows are locked in the order of these statements, and in each in the order of their keys: never a deadlock.
SELECT p.topic
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (subscription, topic, partition)
JOIN awakeables.offsets AS p
    ON p.subscription = wanted.subscription AND p.topic = wanted.topic AND p.partition = wanted.partition
ORDER BY p.subscription, p.topic, p.partition FOR UPDATE OF p

-- lock_schedules --
SELECT s.name FROM awakeables.schedules AS s WHERE s.name = ANY($1::text[]) ORDER BY s.name FOR UPDATE

-- lock_pauses --
SELECT u.target FROM awakeables.pauses AS u WHERE u.target = ANY($1::text[]) ORDER BY u.target FOR UPDATE

-- lock_awakeables --
SELECT a.id FROM awakeables.awakeables AS a WHERE a.id = ANY($1::text[]) ORDER BY a.id FOR UPDATE

-- lock_invocations --
SELECT i.id FROM awakeables.invocations AS i WHERE i.id = ANY($1::text[]) ORDER BY i.id FOR UPDATE

-- lock_effects --
SELECT o.event_id FROM awakeables.outbox AS o WHERE o.event_id = ANY($1::text[]) ORDER BY o.event_id FOR UPDATE

-- lock_dead_letters --
SELECT d.id FROM awakeables.dead_letters AS d WHERE d.id = ANY($1::text[]) ORDER BY d.id FOR UPDATE
