-- begin_reading --
BEGIN

-- all_invocations --
SELECT * FROM invocations ORDER BY id

-- all_chunks --
SELECT invocation_id, version, chunk FROM journal ORDER BY invocation_id, version

-- chunks_of --
SELECT journal.invocation_id, journal.version, journal.chunk
FROM json_each(?) AS wanted
CROSS JOIN journal ON journal.invocation_id = wanted.value

-- all_awakeables --
SELECT * FROM awakeables ORDER BY id

-- awakeables_with --
SELECT awakeables.*
FROM json_each(?) AS wanted
CROSS JOIN awakeables ON awakeables.id = wanted.value

-- all_unsent --
SELECT
    event_id, stream, claimed_by, state, created_ms, topic, reason, facts, NULL, NULL, NULL, NULL, position, kind
FROM outbox INDEXED BY outbox_stream WHERE state = 'unsent' ORDER BY stream, event_id

-- all_failed --
SELECT
    event_id, stream, claimed_by, state, created_ms, topic, reason, facts, NULL, NULL, NULL, NULL, position, kind
FROM outbox INDEXED BY outbox_failed WHERE state = 'failed' ORDER BY event_id

-- all_dead_letters --
SELECT
    id, source, topic, partition, "offset", timestamp_ms, code, reason, at_ms, awakeable_id, NULL, NULL, NULL,
    resent, NULL, last_offset, count
FROM dead_letters ORDER BY source

-- all_keys --
SELECT scope, key, invocation_id FROM idempotency ORDER BY scope, key

-- all_positions --
SELECT * FROM offsets ORDER BY subscription, topic, partition

-- all_objects --
SELECT * FROM objects ORDER BY service, key

-- versions --
SELECT invocations.id, invocations.version
FROM json_each(?) AS wanted
CROSS JOIN invocations ON invocations.id = wanted.value

-- schema_hashes --
SELECT hash FROM schemas
