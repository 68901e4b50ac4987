-- auditor --
-- One transaction for all, and between two statements rows are checked, which takes its time.
SET statement_timeout = '8s';
SET lock_timeout = '3s';
SET idle_in_transaction_session_timeout = '60s';
SET enable_seqscan = off;
SET jit = off;
SET client_min_messages = warning;

-- audit_clock --
SELECT @now_ms

-- all_invocations --
SELECT @invocation_columns FROM awakeables.invocations AS i ORDER BY i.id

-- invocations_with --
SELECT @invocation_columns FROM awakeables.invocations AS i WHERE i.id = ANY($1::text[])

-- all_chunks --
SELECT j.invocation_id, j.version, j.chunk FROM awakeables.journal AS j ORDER BY j.invocation_id, j.version

-- chunks_of --
SELECT j.invocation_id, j.version, j.chunk FROM awakeables.journal AS j
WHERE j.invocation_id = ANY($1::text[]) ORDER BY j.invocation_id, j.version

-- all_awakeables --
SELECT @awakeable_columns FROM awakeables.awakeables AS a ORDER BY a.id

-- awakeables_with --
SELECT @awakeable_columns FROM awakeables.awakeables AS a WHERE a.id = ANY($1::text[])

-- all_unsent --
SELECT
    o.event_id, o.stream, o.claimed_by, o.state, o.created_ms, o.topic, o.reason, o.facts,
    NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea, o.position, o.kind
FROM awakeables.outbox AS o WHERE o.state = 'unsent' ORDER BY o.stream, o.position, o.event_id

-- all_failed --
SELECT
    o.event_id, o.stream, o.claimed_by, o.state, o.created_ms, o.topic, o.reason, o.facts,
    NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea, o.position, o.kind
FROM awakeables.outbox AS o WHERE o.state = 'failed' ORDER BY o.event_id

-- all_dead_letters --
SELECT
    d.id, d.source, d.topic, d.partition, d."offset", d.timestamp_ms, d.code, d.reason, d.at_ms, d.awakeable_id,
    NULL::bytea, NULL::bytea, NULL::bytea, d.resent, NULL::bytea, d.last_offset, d.count
FROM awakeables.dead_letters AS d ORDER BY d.source

-- all_keys --
SELECT k.scope, k.key, k.invocation_id FROM awakeables.idempotency AS k ORDER BY k.scope, k.key

-- all_positions --
SELECT @position_columns FROM awakeables.offsets AS p ORDER BY p.subscription, p.topic, p.partition

-- all_objects --
SELECT @object_columns FROM awakeables.objects AS q ORDER BY q.service, q.key

-- versions --
SELECT i.id, i.version FROM awakeables.invocations AS i WHERE i.id = ANY($1::text[])

-- schema_hashes --
SELECT s.hash FROM awakeables.schemas AS s
