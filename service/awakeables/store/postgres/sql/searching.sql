-- due_invocations --
-- A negative due time is no instant: it has come whatever the clock says. Each of the two kinds is in its
-- order in the index; what is read of both is merged by the instant since which it has been due. $7 is the
-- least such instant.
WITH at_once AS (
    SELECT @invocation_columns, i.rev FROM awakeables.invocations AS i
    WHERE i.due_ms IS NOT NULL AND i.due_ms BETWEEN $7::bigint - $4::bigint AND -1 AND i.starts < $2 AND @for_me
    ORDER BY i.due_ms, i.id LIMIT $3 FOR UPDATE SKIP LOCKED
), timed AS (
    SELECT @invocation_columns, i.rev FROM awakeables.invocations AS i
    WHERE i.due_ms IS NOT NULL AND i.due_ms BETWEEN greatest(0, $7::bigint) AND $1 AND i.starts < $2 AND @for_me
    ORDER BY i.due_ms, i.id LIMIT $3 FOR UPDATE SKIP LOCKED
)
SELECT * FROM (SELECT * FROM at_once UNION ALL SELECT * FROM timed) AS due
ORDER BY due.due_ms + CASE WHEN due.due_ms < 0 THEN $4::bigint ELSE 0 END, due.id LIMIT $3

-- due_suspects --
-- Nearly always none, so they are sorted. The literal is the index's own condition; the parameter is the
-- engine's. What is due is compared in a way that the index of all that is due can't serve: where both seem to
-- be empty, they seem to cost the same.
SELECT @invocation_columns, i.rev FROM awakeables.invocations AS i
WHERE i.starts >= 2 AND coalesce(i.due_ms, 9223372036854775807) <= $1 AND i.starts >= $2 AND @for_me
ORDER BY i.due_ms + CASE WHEN i.due_ms < 0 THEN $4::bigint ELSE 0 END, i.id LIMIT $3
FOR UPDATE SKIP LOCKED

-- for_me --
NOT coalesce(i.build = ANY($5::text[]), false)
    AND NOT (i.service || '/' || i.handler
        || coalesce('@' || (convert_from(i.versions, 'UTF8')::json ->> 'handler'), '') = ANY($6::text[]))

-- orphaned_invocations --
-- Hops from owner to owner along the index. Who is dead stays dead, so the owner that was seen is compared
-- again when the row is locked: another instance may have taken the row over and run it meanwhile.
WITH RECURSIVE owners (name) AS (
    SELECT min(i.owner) FROM awakeables.invocations AS i WHERE i.owner IS NOT NULL
    UNION ALL
    SELECT (SELECT min(i.owner) FROM awakeables.invocations AS i WHERE i.owner IS NOT NULL AND i.owner > owners.name)
    FROM owners WHERE owners.name IS NOT NULL
), orphans AS (
    SELECT owned.id, owners.name
    FROM owners
    CROSS JOIN LATERAL (
        SELECT i.id FROM awakeables.invocations AS i
        WHERE i.owner IS NOT NULL AND i.owner = owners.name ORDER BY i.id LIMIT $2
    ) AS owned
    WHERE owners.name IS NOT NULL AND owners.name <> $1 AND NOT EXISTS (
        SELECT 1 FROM awakeables.instances AS n WHERE n.id = owners.name AND n.state <> 'dead')
    ORDER BY owned.id LIMIT $2
)
SELECT @invocation_columns, i.rev
FROM orphans JOIN awakeables.invocations AS i ON i.id = orphans.id AND i.owner = orphans.name
ORDER BY i.id FOR UPDATE OF i SKIP LOCKED

-- effects_of --
SELECT @claimed_effect_columns FROM awakeables.outbox AS o
WHERE o.state = 'unsent' AND o.stream = ANY($1::text[]) AND o.claimed_by <> $2
ORDER BY o.event_id FOR UPDATE

-- overdue_awakeables --
SELECT @awakeable_columns, a.rev FROM awakeables.awakeables AS a
WHERE a.state = 'pending' AND a.deadline_ms IS NOT NULL AND a.deadline_ms BETWEEN $3 AND $1
ORDER BY a.deadline_ms, a.id LIMIT $2
FOR UPDATE SKIP LOCKED

-- unclaimed_effects --
-- Hops from owner to owner along the index, takes the oldest of each that does not live, and then their
-- streams whole; without streams of which another instance that lives holds an effect.
WITH RECURSIVE holders (name) AS (
    SELECT min(o.claimed_by) FROM awakeables.outbox AS o WHERE o.state = 'unsent'
    UNION ALL
    SELECT (SELECT min(o.claimed_by) FROM awakeables.outbox AS o
            WHERE o.state = 'unsent' AND o.claimed_by > holders.name)
    FROM holders WHERE holders.name IS NOT NULL
), gone AS (
    SELECT holders.name FROM holders
    WHERE holders.name IS NOT NULL AND holders.name <> $1 AND NOT EXISTS (
        SELECT 1 FROM awakeables.instances AS n WHERE n.id = holders.name AND n.state <> 'dead')
), oldest AS (
    SELECT first.event_id, first.stream
    FROM gone
    CROSS JOIN LATERAL (
        SELECT o.event_id, o.stream FROM awakeables.outbox AS o
        WHERE o.state = 'unsent' AND o.claimed_by = gone.name AND NOT EXISTS (
            SELECT 1 FROM awakeables.outbox AS held
            JOIN awakeables.instances AS n ON n.id = held.claimed_by AND n.state <> 'dead'
            WHERE held.state = 'unsent' AND held.stream = o.stream AND held.claimed_by <> $1)
        ORDER BY o.event_id LIMIT $2
    ) AS first
    ORDER BY first.event_id LIMIT $2
)
SELECT o.event_id, o.stream, o.claimed_by
FROM (SELECT DISTINCT oldest.stream FROM oldest) AS streams
CROSS JOIN LATERAL (
    SELECT held.event_id, held.stream, held.claimed_by FROM awakeables.outbox AS held
    WHERE held.state = 'unsent' AND held.stream = streams.stream AND held.claimed_by <> $1
) AS o

-- lock_unclaimed --
SELECT @claimed_effect_columns
FROM unnest($1::text[], $2::text[]) AS seen (event_id, claimed_by)
JOIN awakeables.outbox AS o ON o.event_id = seen.event_id AND o.claimed_by = seen.claimed_by
WHERE o.state = 'unsent'
ORDER BY o.event_id
FOR UPDATE OF o SKIP LOCKED

-- old_dead_letters --
SELECT d.id FROM awakeables.dead_letters AS d WHERE d.id < $1
ORDER BY d.id LIMIT $2 FOR UPDATE SKIP LOCKED

-- old_dead_letters_of --
SELECT d.id FROM awakeables.dead_letters AS d WHERE d.code = $3 AND d.id < $1
ORDER BY d.id LIMIT $2 FOR UPDATE SKIP LOCKED

-- old_failed --
SELECT o.event_id FROM awakeables.outbox AS o
WHERE o.state = 'failed' AND o.event_id > $1 AND o.event_id < $2
ORDER BY o.event_id LIMIT $3 FOR UPDATE SKIP LOCKED

-- clock --
SELECT @now_ms
