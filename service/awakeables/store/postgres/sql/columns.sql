-- invocation_columns --
i.id, i.service, i.handler, i.created_ms, i.updated_ms, i.key, i.status, i.owner, i.epoch, i.version, i.wake,
    i.starts, i.attempts, i.due_ms, i.committed_by, i.build, i.failure, i.result, i.cancelled_ms, i.ended_ms,
    i.acted_by, i.commits, i.origin, i.awaited, i.ticket, i.pausing_ms, i.subscription, i.versions

-- awakeable_columns --
a.id, a.invocation_id, a.created_ms, a.codec, a.schema_hash, a.deadline_ms, a.state, a.settled_ms, a.settled_by,
    a.outcome, a.book, a.beat, a.type_name, a.topic, a.title, a.about, a.source, a.owned, a.watch

-- effect_columns --
o.event_id, o.stream, o.claimed_by, o.state, o.created_ms, o.topic, o.reason, o.facts, o.headers, o.key, o.value,
    o.acted_by, o.position, o.kind

-- claimed_effect_columns --
-- Without what may be large: a claim changes only whose they are.
o.event_id, o.stream, o.claimed_by, o.state, o.created_ms, o.topic, o.reason, NULL, NULL, NULL, NULL,
    o.acted_by, o.position, o.kind

-- dead_letter_columns --
d.id, d.source, d.topic, d.partition, d."offset", d.timestamp_ms, d.code, d.reason, d.at_ms, d.awakeable_id,
    d.headers, d.key, d.value, d.resent, d.acted_by, d.last_offset, d.count

-- position_columns --
p.subscription, p.topic, p.partition, p.next, p.epoch, p.owner, p.again_before, p.topic_id, p.paused_ms

-- schedule_columns --
s.name, s.service, s.handler, s.spec, s.since_ms, s.next_ms, s.paused_ms, s.last_invocation, s.queued_ms

-- pause_columns --
u.target, u.since_ms, u.by

-- new_rev --
(random() * 2147483647)::integer

-- now_ms --
floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
