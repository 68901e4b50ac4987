-- What a commit writes is ONE statement, joined from those of these fragments that it needs, in this order.
-- `@after` makes a fragment wait for the one before it: so every commit locks rows in the same order, and
-- there are no deadlocks. Arrays are sorted by key. Each fragment returns a row for each row that it has
-- written; the statement fails as a whole if one of them has written other than it was sent.

-- update_positions --
UPDATE awakeables.offsets AS p
SET next = n.next, epoch = n.epoch, owner = n.owner, again_before = n.again_before, topic_id = n.topic_id,
    paused_ms = n.paused_ms
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::text[],
            $9::bigint[], $10::bigint[], $11::bigint[], $12::text[])
    AS n (subscription, topic, partition, next, epoch, owner, again_before, topic_id, paused_ms, old_next, old_epoch,
          old_owner)
WHERE @after AND p.subscription = n.subscription AND p.topic = n.topic AND p.partition = n.partition
    AND p.next = n.old_next AND p.epoch = n.old_epoch AND p.owner IS NOT DISTINCT FROM n.old_owner
RETURNING 1

-- hold_schedules --
SELECT s.name FROM awakeables.schedules AS s
WHERE @after AND s.name = ANY($1::text[])
ORDER BY s.name FOR UPDATE

-- update_schedules --
UPDATE awakeables.schedules AS s
SET service = n.service, handler = n.handler, spec = n.spec, since_ms = n.since_ms, next_ms = n.next_ms,
    paused_ms = n.paused_ms, last_invocation = n.last_invocation, queued_ms = n.queued_ms
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[],
            $9::bigint[], $10::bytea[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[], $15::bigint[])
    AS n (name, service, handler, spec, since_ms, next_ms, paused_ms, last_invocation, queued_ms,
          old_spec, old_since_ms, old_next_ms, old_paused_ms, old_last_invocation, old_queued_ms)
WHERE @after AND s.name = n.name AND s.spec = n.old_spec AND s.since_ms = n.old_since_ms
    AND s.next_ms = n.old_next_ms AND s.paused_ms IS NOT DISTINCT FROM n.old_paused_ms
    AND s.last_invocation IS NOT DISTINCT FROM n.old_last_invocation
    AND s.queued_ms IS NOT DISTINCT FROM n.old_queued_ms
RETURNING 1

-- delete_schedules --
DELETE FROM awakeables.schedules AS s
USING unnest($1::text[], $2::bigint[], $3::bigint[]) AS n (name, old_since_ms, old_next_ms)
WHERE @after AND s.name = n.name AND s.since_ms = n.old_since_ms AND s.next_ms = n.old_next_ms
RETURNING 1

-- delete_pauses --
DELETE FROM awakeables.pauses AS u
USING unnest($1::text[], $2::bigint[]) AS n (target, old_since_ms)
WHERE @after AND u.target = n.target AND u.since_ms = n.old_since_ms
RETURNING 1

-- update_awakeables --
UPDATE awakeables.awakeables AS a
SET state = n.state, settled_ms = n.settled_ms, settled_by = n.settled_by,
    outcome = coalesce(n.outcome, a.outcome), book = n.book, beat = n.beat, topic = n.topic,
    deadline_ms = n.deadline_ms, watch = n.watch, rev = @new_rev
FROM unnest($1::text[], $2::integer[], $3::text[], $4::bigint[], $5::text[], $6::bytea[], $7::bytea[],
            $8::bytea[], $9::text[], $10::bigint[], $11::bytea[])
    AS n (id, rev, state, settled_ms, settled_by, outcome, book, beat, topic, deadline_ms, watch)
WHERE @after AND a.id = n.id AND a.rev = n.rev
RETURNING 1

-- delete_awakeables --
DELETE FROM awakeables.awakeables AS a
USING (
    SELECT old.id FROM awakeables.awakeables AS old WHERE old.id = ANY($1::text[]) ORDER BY old.id FOR UPDATE
) AS n
WHERE @after AND a.id = n.id
RETURNING 1

-- hold_invocations --
-- All invocations of the statement in one pass: two passes, over those that it updates and those that it
-- wakes, would be two orders.
SELECT i.id FROM awakeables.invocations AS i
WHERE @after AND i.id = ANY($1::text[])
ORDER BY i.id FOR NO KEY UPDATE

-- update_invocations --
-- `wake` is outside `rev`: it is counted up, not set. A step that must have seen every wake-up says which
-- was the last that it has seen.
UPDATE awakeables.invocations AS i
SET updated_ms = n.updated_ms, status = n.status, owner = n.owner, epoch = n.epoch, version = n.version,
    wake = i.wake + n.woken, starts = n.starts, attempts = n.attempts, due_ms = n.due_ms,
    committed_by = n.committed_by, build = n.build, failure = n.failure,
    result = coalesce(n.result, i.result), cancelled_ms = n.cancelled_ms, ended_ms = n.ended_ms,
    acted_by = n.acted_by, commits = n.commits, awaited = n.awaited, ticket = n.ticket, pausing_ms = n.pausing_ms,
    versions = coalesce(n.versions, i.versions), rev = @new_rev
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::text[],
            $15::bytea[], $16::bytea[], $17::bigint[], $18::bigint[], $19::bytea[], $20::bigint[], $21::boolean[],
            $22::bigint[], $23::bigint[], $24::bytea[])
    AS n (id, rev, seen_wake, woken, updated_ms, status, owner, epoch, version, starts, attempts, due_ms,
          committed_by, build, failure, result, cancelled_ms, ended_ms, acted_by, commits, awaited, ticket,
          pausing_ms, versions)
WHERE @after AND i.id = n.id AND i.rev = n.rev AND (n.seen_wake IS NULL OR i.wake = n.seen_wake)
RETURNING 1

-- wake_invocations --
-- Blind: whatever the row is now. Only a suspended row changes more than its count, so only then `rev` moves,
-- and the owner of a running one is never disturbed.
UPDATE awakeables.invocations AS i
SET wake = i.wake + n.count,
    status = CASE i.status WHEN 'suspended' THEN 'pending' ELSE i.status END,
    due_ms = CASE i.status WHEN 'suspended' THEN n.due_ms ELSE i.due_ms END,
    rev = CASE i.status WHEN 'suspended' THEN @new_rev ELSE i.rev END
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS n (id, count, due_ms)
WHERE @after AND i.id = n.id
RETURNING i.id, i.wake, i.owner

-- delete_invocations --
DELETE FROM awakeables.invocations AS i
USING unnest($1::text[], $2::integer[]) AS n (id, rev)
WHERE @after AND i.id = n.id AND i.rev = n.rev
RETURNING 1

-- hold_effects --
SELECT o.event_id FROM awakeables.outbox AS o
WHERE @after AND o.event_id = ANY($1::text[])
ORDER BY o.event_id FOR UPDATE

-- update_effects --
UPDATE awakeables.outbox AS o
SET state = n.state, claimed_by = n.claimed_by, reason = n.reason, acted_by = n.acted_by, position = n.position
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[], $7::text[], $8::text[])
    AS n (event_id, state, claimed_by, reason, acted_by, position, old_state, old_claimed_by)
WHERE @after AND o.event_id = n.event_id AND o.state = n.old_state AND o.claimed_by = n.old_claimed_by
RETURNING 1

-- delete_effects --
DELETE FROM awakeables.outbox AS o
USING unnest($1::text[], $2::text[], $3::text[]) AS n (event_id, old_state, old_claimed_by)
WHERE @after AND o.event_id = n.event_id AND o.state = n.old_state AND o.claimed_by = n.old_claimed_by
RETURNING 1

-- delete_published --
-- In any state and whoever has claimed them, if they are still there: Kafka has them.
DELETE FROM awakeables.outbox AS o WHERE @after AND o.event_id = ANY($1::text[])
RETURNING 1

-- update_dead_letters --
UPDATE awakeables.dead_letters AS d
SET resent = n.resent, acted_by = n.acted_by, last_offset = n.last_offset, count = n.count
FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
    AS n (id, resent, acted_by, last_offset, count, old_resent, old_count)
WHERE @after AND d.id = n.id AND d.resent = n.old_resent AND d.count = n.old_count
RETURNING 1

-- delete_dead_letters --
DELETE FROM awakeables.dead_letters AS d WHERE @after AND d.id = ANY($1::text[])
RETURNING 1

-- delete_journals --
DELETE FROM awakeables.journal AS j WHERE @after AND j.invocation_id = ANY($1::text[])
RETURNING 1

-- delete_keys --
DELETE FROM awakeables.idempotency AS k WHERE @after AND k.invocation_id = ANY($1::text[])
RETURNING 1

-- insert_positions --
INSERT INTO awakeables.offsets (
    subscription, topic, partition, next, epoch, owner, again_before, topic_id, paused_ms
)
SELECT
    n.subscription, n.topic, n.partition, n.next, n.epoch, n.owner, n.again_before, n.topic_id, n.paused_ms
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::text[],
            $9::bigint[])
    AS n (subscription, topic, partition, next, epoch, owner, again_before, topic_id, paused_ms)
WHERE @after
RETURNING 1

-- insert_schedules --
INSERT INTO awakeables.schedules (
    name, service, handler, spec, since_ms, next_ms, paused_ms, last_invocation, queued_ms
)
SELECT
    n.name, n.service, n.handler, n.spec, n.since_ms, n.next_ms, n.paused_ms, n.last_invocation, n.queued_ms
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[],
            $9::bigint[])
    AS n (name, service, handler, spec, since_ms, next_ms, paused_ms, last_invocation, queued_ms)
WHERE @after
RETURNING 1

-- insert_pauses --
INSERT INTO awakeables.pauses (target, since_ms, by)
SELECT n.target, n.since_ms, n.by FROM unnest($1::text[], $2::bigint[], $3::text[]) AS n (target, since_ms, by)
WHERE @after
RETURNING 1

-- insert_keys --
INSERT INTO awakeables.idempotency (scope, key, fingerprint, invocation_id)
SELECT n.scope, n.key, n.fingerprint, n.invocation_id
FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[]) AS n (scope, key, fingerprint, invocation_id)
WHERE @after
RETURNING 1

-- insert_invocations --
INSERT INTO awakeables.invocations (
    id, service, handler, created_ms, updated_ms, key, status, owner, epoch, version, wake, starts, attempts,
    due_ms, committed_by, build, failure, result, cancelled_ms, ended_ms, acted_by, commits, origin, awaited, ticket,
    pausing_ms, subscription, versions, rev
)
SELECT
    n.id, n.service, n.handler, n.created_ms, n.updated_ms, n.key, n.status, n.owner, n.epoch, n.version, n.wake,
    n.starts, n.attempts, n.due_ms, n.committed_by, n.build, n.failure, n.result, n.cancelled_ms, n.ended_ms,
    n.acted_by, n.commits, n.origin, n.awaited, n.ticket, n.pausing_ms, n.subscription, n.versions, @new_rev
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[], $7::text[], $8::text[],
            $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[],
            $16::text[], $17::bytea[], $18::bytea[], $19::bigint[], $20::bigint[], $21::bytea[], $22::bigint[],
            $23::text[], $24::boolean[], $25::bigint[], $26::bigint[], $27::text[], $28::bytea[])
    AS n (id, service, handler, created_ms, updated_ms, key, status, owner, epoch, version, wake, starts,
          attempts, due_ms, committed_by, build, failure, result, cancelled_ms, ended_ms, acted_by, commits,
          origin, awaited, ticket, pausing_ms, subscription, versions)
WHERE @after
RETURNING 1

-- insert_chunks --
INSERT INTO awakeables.journal (invocation_id, version, chunk, at_ms)
SELECT n.invocation_id, n.version, n.chunk, n.at_ms
FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bigint[]) AS n (invocation_id, version, chunk, at_ms)
WHERE @after
RETURNING 1

-- insert_schemas --
INSERT INTO awakeables.schemas (hash, body)
SELECT n.hash, n.body FROM unnest($1::text[], $2::bytea[]) AS n (hash, body)
WHERE @after
ON CONFLICT (hash) DO NOTHING
RETURNING 1

-- insert_awakeables --
INSERT INTO awakeables.awakeables (
    id, invocation_id, created_ms, codec, schema_hash, deadline_ms, state, settled_ms, settled_by, outcome, book,
    beat, type_name, topic, title, about, source, owned, watch, rev
)
SELECT
    n.id, n.invocation_id, n.created_ms, n.codec, n.schema_hash, n.deadline_ms, n.state, n.settled_ms,
    n.settled_by, n.outcome, n.book, n.beat, n.type_name, n.topic, n.title, n.about, n.source, n.owned, n.watch,
    @new_rev
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::bigint[],
            $9::text[], $10::bytea[], $11::bytea[], $12::bytea[], $13::text[], $14::text[], $15::bytea[],
            $16::bytea[], $17::bytea[], $18::boolean[], $19::bytea[])
    AS n (id, invocation_id, created_ms, codec, schema_hash, deadline_ms, state, settled_ms, settled_by, outcome,
          book, beat, type_name, topic, title, about, source, owned, watch)
WHERE @after
RETURNING 1

-- insert_dead_letters --
INSERT INTO awakeables.dead_letters (
    id, source, topic, partition, "offset", timestamp_ms, code, reason, at_ms, awakeable_id, headers, key, value,
    resent, acted_by, last_offset, count
)
SELECT
    n.id, n.source, n.topic, n.partition, n."offset", n.timestamp_ms, n.code, n.reason, n.at_ms, n.awakeable_id,
    n.headers, n.key, n.value, n.resent, n.acted_by, n.last_offset, n.count
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
            $8::bytea[], $9::bigint[], $10::bytea[], $11::bytea[], $12::bytea[], $13::bytea[], $14::bigint[],
            $15::bytea[], $16::bigint[], $17::bigint[])
    AS n (id, source, topic, partition, "offset", timestamp_ms, code, reason, at_ms, awakeable_id, headers, key,
          value, resent, acted_by, last_offset, count)
WHERE @after
RETURNING 1

-- insert_effects --
INSERT INTO awakeables.outbox (
    event_id, stream, claimed_by, state, created_ms, topic, reason, facts, headers, key, value, acted_by,
    position, kind
)
SELECT
    n.event_id, n.stream, n.claimed_by, n.state, n.created_ms, n.topic, n.reason, n.facts, n.headers, n.key,
    n.value, n.acted_by, n.position, n.kind
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[], $8::bytea[],
            $9::bytea[], $10::bytea[], $11::bytea[], $12::bytea[], $13::bigint[], $14::text[])
    AS n (event_id, stream, claimed_by, state, created_ms, topic, reason, facts, headers, key, value, acted_by,
          position, kind)
WHERE @after
RETURNING 1

-- probe --
UPDATE awakeables.meta AS m SET probes = m.probes + 1 WHERE @after
RETURNING 1

-- follows --
(SELECT count(*) FROM @kind) >= 0

-- check --
(SELECT count(*) FROM @kind) = $1::bigint

-- answer --
SELECT NULL::text AS id, NULL::bigint AS wake, NULL::text AS owner, 1 / (CASE
    WHEN @checks AND extract(epoch FROM clock_timestamp()) * 1000 < $1::bigint THEN 1 ELSE 0 END) AS written

-- answer_wakes --
SELECT w.id, w.wake, w.owner, 0 FROM wake_invocations AS w
