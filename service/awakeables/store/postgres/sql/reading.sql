-- chunks --
SELECT j.version, j.chunk FROM awakeables.journal AS j WHERE j.invocation_id = $1 AND j.version > $2
ORDER BY j.version LIMIT 100

-- history --
SELECT j.invocation_id, j.version, j.chunk FROM awakeables.journal AS j
WHERE j.invocation_id = ANY($1::text[])
ORDER BY j.invocation_id, j.version

-- outcomes --
SELECT a.settled_ms, a.id, a.outcome FROM awakeables.awakeables AS a
WHERE a.id = ANY($1::text[]) AND a.outcome IS NOT NULL

-- awakeables_of --
-- Looks at every row: those that have ended are found by the journals of their invocations, unless these can't be read.
SELECT a.invocation_id, a.id FROM awakeables.awakeables AS a WHERE a.invocation_id = ANY($1::text[])

-- held_by --
SELECT i.id FROM awakeables.invocations AS i WHERE i.owner = $1 ORDER BY i.id

-- ends --
SELECT i.id, i.result FROM awakeables.invocations AS i
WHERE i.id = ANY($1::text[]) AND i.status IN ('completed', 'paused')

-- expectations --
SELECT a.id, a.invocation_id, a.codec, a.type_name, a.schema_hash, s.body, a.watch
FROM awakeables.awakeables AS a
LEFT JOIN awakeables.schemas AS s ON s.hash = a.schema_hash
WHERE a.id = ANY($1::text[])

-- unsent_of --
-- The streams of the oldest, each whole, in the order in which they are to be published: by event ID
-- alone a clock that was set back would turn a stream's order round.
WITH oldest AS (
    SELECT DISTINCT first.stream
    FROM (
        SELECT o.stream FROM awakeables.outbox AS o
        WHERE o.state = 'unsent' AND o.claimed_by = $1 ORDER BY o.event_id LIMIT $2
    ) AS first
), chosen AS (
    SELECT held.event_id, held.position
    FROM oldest
    CROSS JOIN LATERAL (
        SELECT o.event_id, o.position FROM awakeables.outbox AS o
        WHERE o.state = 'unsent' AND o.stream = oldest.stream AND o.claimed_by = $1
    ) AS held
    ORDER BY held.position, held.event_id LIMIT $2
)
SELECT @effect_columns
FROM chosen JOIN awakeables.outbox AS o ON o.event_id = chosen.event_id
ORDER BY chosen.position, chosen.event_id

-- ended --
SELECT i.id, i.version FROM awakeables.invocations AS i
WHERE i.ended_ms IS NOT NULL AND i.ended_ms <= $1
ORDER BY i.ended_ms, i.id LIMIT $2

-- schedules --
SELECT @schedule_columns, i.status
FROM awakeables.schedules AS s LEFT JOIN awakeables.invocations AS i ON i.id = s.last_invocation
ORDER BY s.name

-- pauses --
SELECT @pause_columns FROM awakeables.pauses AS u ORDER BY u.target

-- positions --
SELECT @position_columns FROM awakeables.offsets AS p
WHERE p.subscription = $1 AND p.topic = $2 ORDER BY p.partition

-- subscribed --
SELECT DISTINCT p.subscription, p.topic FROM awakeables.offsets AS p
WHERE p.subscription > '' ORDER BY p.subscription, p.topic

-- count_open_of --
SELECT count(*) FROM (
    SELECT 1 FROM awakeables.invocations AS i
    WHERE i.subscription IS NOT NULL AND i.subscription = $1 AND i.result IS NULL LIMIT $2
) AS open

-- invocation --
SELECT @invocation_columns FROM awakeables.invocations AS i WHERE i.id = $1

-- listed --
-- The planner takes each of these to be met by every second row, whatever the names are. So it goes along an index
-- until the page is full, and does not sort all rows.
coalesce(i.service = $2::text, true) AND coalesce(i.handler = $3::text, true)
    AND coalesce(i.subscription = $4::text, $4::text IS NULL) AND coalesce(i.status = $5::text, true)

-- list_invocations --
SELECT @invocation_columns FROM awakeables.invocations AS i
WHERE i.id < $1 AND @listed
ORDER BY i.id DESC LIMIT $6

-- list_open --
SELECT @invocation_columns FROM awakeables.invocations AS i
WHERE i.result IS NULL AND i.id < $1 AND @listed
ORDER BY i.id DESC LIMIT $6

-- list_subscribed --
-- All open ones of the subscription are visited, up to its `max_open`, and then the rows of the page are read. In one step, or with the
-- condition on IDs in the first one, an index of all that is open, or of the whole table, would seem as cheap.
WITH open AS MATERIALIZED (
    SELECT i.id FROM awakeables.invocations AS i
    WHERE i.subscription IS NOT NULL AND i.subscription = $4 AND i.result IS NULL AND @listed
), page AS MATERIALIZED (
    SELECT open.id FROM open WHERE open.id < $1 ORDER BY open.id DESC LIMIT $6
)
SELECT @invocation_columns FROM page JOIN awakeables.invocations AS i ON i.id = page.id
ORDER BY i.id DESC

-- list_running --
-- As above: there are as many as all instances run at a time.
WITH owned AS MATERIALIZED (
    SELECT i.id FROM awakeables.invocations AS i WHERE i.owner IS NOT NULL AND @listed
), page AS MATERIALIZED (
    SELECT owned.id FROM owned WHERE owned.id < $1 ORDER BY owned.id DESC LIMIT $6
)
SELECT @invocation_columns FROM page JOIN awakeables.invocations AS i ON i.id = page.id
ORDER BY i.id DESC

-- list_paused --
SELECT @invocation_columns FROM awakeables.invocations AS i
WHERE i.status = 'paused' AND i.id < $1 AND @listed
ORDER BY i.id DESC LIMIT $6

-- open_by_versions --
SELECT i.service, i.handler, i.versions, count(*), min(i.created_ms)
FROM awakeables.invocations AS i WHERE i.result IS NULL
GROUP BY i.service, i.handler, i.versions

-- keyed --
SELECT @invocation_columns
FROM awakeables.idempotency AS k
JOIN awakeables.invocations AS i ON i.id = k.invocation_id
WHERE k.scope = ANY($1::bytea[]) AND k.key = $2

-- key_of --
SELECT k.key FROM awakeables.idempotency AS k WHERE k.invocation_id = $1 AND k.scope NOT IN ('alias'::bytea, 'conflict'::bytea) LIMIT 1

-- awakeable --
SELECT @awakeable_columns FROM awakeables.awakeables AS a WHERE a.id = $1

-- list_awakeables --
SELECT @awakeable_columns FROM awakeables.awakeables AS a
WHERE a.id < $1 AND a.source IS NULL ORDER BY a.id DESC LIMIT $2

-- list_pending --
SELECT @awakeable_columns FROM awakeables.awakeables AS a
WHERE a.state = 'pending' AND a.source IS NULL AND a.id < $1 ORDER BY a.id DESC LIMIT $2

-- list_settled --
SELECT @awakeable_columns FROM awakeables.awakeables AS a
WHERE a.id < $1 AND a.state = $3 AND a.source IS NULL ORDER BY a.id DESC LIMIT $2

-- dead_letter --
SELECT @dead_letter_columns FROM awakeables.dead_letters AS d WHERE d.id = $1

-- list_dead_letters --
SELECT @dead_letter_columns FROM awakeables.dead_letters AS d WHERE d.id < $1 ORDER BY d.id DESC LIMIT $2

-- effect --
SELECT @effect_columns FROM awakeables.outbox AS o WHERE o.event_id = $1

-- newest_unsent --
-- Hops from owner to owner along the index, and takes the newest of each: what has failed is not looked at.
WITH RECURSIVE holders (name) AS (
    SELECT min(o.claimed_by) FROM awakeables.outbox AS o WHERE o.state = 'unsent'
    UNION ALL
    SELECT (SELECT min(o.claimed_by) FROM awakeables.outbox AS o
            WHERE o.state = 'unsent' AND o.claimed_by > holders.name)
    FROM holders WHERE holders.name IS NOT NULL
)
SELECT @effect_columns
FROM holders
CROSS JOIN LATERAL (
    SELECT held.* FROM awakeables.outbox AS held
    WHERE held.state = 'unsent' AND held.claimed_by = holders.name AND held.event_id > $1 AND held.event_id < $2
    ORDER BY held.event_id DESC LIMIT $3
) AS o
WHERE holders.name IS NOT NULL

-- newest_failed --
SELECT @effect_columns FROM awakeables.outbox AS o
WHERE o.state = 'failed' AND o.event_id > $1 AND o.event_id < $2
ORDER BY o.event_id DESC LIMIT $3

-- oldest --
WITH RECURSIVE holders (name) AS (
    SELECT min(o.claimed_by) FROM awakeables.outbox AS o WHERE o.state = 'unsent'
    UNION ALL
    SELECT (SELECT min(o.claimed_by) FROM awakeables.outbox AS o
            WHERE o.state = 'unsent' AND o.claimed_by > holders.name)
    FROM holders WHERE holders.name IS NOT NULL
), firsts AS (
    -- A copy of a dead letter has the letter's ID, which sorts before those of all other effects: per
    -- holder the first ID of either kind is looked up.
    SELECT (SELECT min(o.event_id) FROM awakeables.outbox AS o
            WHERE o.state = 'unsent' AND o.claimed_by = holders.name AND o.event_id > kinds.prefix) AS event_id
    FROM holders CROSS JOIN (VALUES ('' COLLATE "C"), ('evt')) AS kinds (prefix)
    WHERE holders.name IS NOT NULL
), in_line (service, key, updated_ms) AS (
    -- Hops from key to key along the index, and looks at the first in line of each.
    (SELECT i.service, i.key, i.updated_ms FROM awakeables.invocations AS i
     WHERE i.status = 'queued' ORDER BY i.service, i.key, i.ticket LIMIT 1)
    UNION ALL
    SELECT next.service, next.key, next.updated_ms FROM in_line
    CROSS JOIN LATERAL (
        SELECT i.service, i.key, i.updated_ms FROM awakeables.invocations AS i
        WHERE i.status = 'queued' AND (i.service, i.key) > (in_line.service, in_line.key)
        ORDER BY i.service, i.key, i.ticket LIMIT 1
    ) AS next
)
SELECT
    (SELECT a.created_ms FROM awakeables.awakeables AS a WHERE a.state = 'pending' AND a.source IS NULL ORDER BY a.id LIMIT 1)
        AS awakeables_oldest_ms,
    (SELECT min(o.created_ms) FROM firsts JOIN awakeables.outbox AS o ON o.event_id = firsts.event_id)
        AS effects_oldest_ms,
    (SELECT json_object_agg(each.service, each.oldest_ms) FROM (
        SELECT few.service, min(few.updated_ms) AS oldest_ms
        FROM (SELECT in_line.service, in_line.updated_ms FROM in_line LIMIT 1000) AS few GROUP BY few.service
    ) AS each) AS queued

-- count_rows --
-- Each kind up to a limit: counting visits every entry of an index.
SELECT 'awakeables_pending' AS kind, count(*) AS count FROM (
    SELECT 1 FROM awakeables.awakeables AS a WHERE a.state = 'pending' AND a.source IS NULL LIMIT $1) AS few
UNION ALL SELECT 'effects_unsent', count(*) FROM (
    SELECT 1 FROM awakeables.outbox AS o WHERE o.state = 'unsent' LIMIT $1) AS few
UNION ALL SELECT 'effects_failed', count(*) FROM (
    SELECT 1 FROM awakeables.outbox AS o WHERE o.state = 'failed' LIMIT $1) AS few
UNION ALL SELECT 'dead_letters', count(*) FROM (
    SELECT 1 FROM awakeables.dead_letters AS d LIMIT $1) AS few
UNION ALL SELECT 'invocations_' || few.status, count(*) FROM (
    SELECT i.status FROM awakeables.invocations AS i WHERE i.result IS NULL LIMIT $1) AS few
GROUP BY few.status
