-- Cancelling, purging and sending dead letters again. `ended_ms` is set by the one statement that
-- ends an invocation, so the index of what may be purged costs nothing before.

ALTER TABLE invocations ADD COLUMN cancelled_ms INTEGER;
ALTER TABLE invocations ADD COLUMN ended_ms INTEGER;
UPDATE invocations SET ended_ms = updated_ms WHERE result IS NOT NULL;
CREATE INDEX invocations_ended ON invocations (ended_ms) WHERE ended_ms IS NOT NULL;

-- Nearly always empty: without it each claim would look through all that is due for a suspect.
CREATE INDEX invocations_suspect ON invocations (due_ms) WHERE due_ms IS NOT NULL AND starts >= 2;

CREATE INDEX idempotency_invocation ON idempotency (invocation_id);

ALTER TABLE dead_letters ADD COLUMN resent INTEGER NOT NULL DEFAULT 0;

PRAGMA user_version = 2;
