-- Which of an owner's commits was its last, by number, so that several that are under way together can be
-- sent again; whose caller waits for a result; the pending awakeables of an invocation, found without its
-- journal; the place of an effect in its stream, and what kind it is. Effects of older releases stay in
-- the order of their IDs, before all newer ones.

ALTER TABLE invocations RENAME COLUMN commit_id TO committed_by;
ALTER TABLE invocations ADD COLUMN commits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE invocations ADD COLUMN origin TEXT;

CREATE INDEX awakeables_waited ON awakeables (invocation_id) WHERE state = 'pending';

ALTER TABLE outbox RENAME COLUMN task TO facts;
ALTER TABLE outbox ADD COLUMN position INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN kind TEXT NOT NULL DEFAULT 'event';
UPDATE outbox SET kind = CASE
    WHEN facts IS NOT NULL THEN 'task'
    WHEN stream = event_id THEN 'dead-letter'
    WHEN stream GLOB 'prom_1*' THEN 'verdict'
    WHEN stream GLOB 'dlq_1*' THEN 'resend'
    ELSE 'event'
END;

PRAGMA user_version = 7;
