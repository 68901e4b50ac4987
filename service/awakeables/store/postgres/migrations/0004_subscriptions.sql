-- Subscriptions: each reads its topics from positions of its own; the empty name is the completions topic's. An
-- invocation keeps the name of the subscription whose record it is for.

ALTER TABLE awakeables.invocations ADD COLUMN subscription text COLLATE "C";
ALTER TABLE awakeables.offsets ADD COLUMN paused_ms bigint;

CREATE INDEX invocations_subscribed ON awakeables.invocations (subscription)
    WHERE subscription IS NOT NULL AND result IS NULL;

-- A search must have one index to go by. Where few rows seem to be left, two indexes seem to cost the same, and
-- the wrong one visits whatever an old snapshot keeps in it. The condition is met by each row.
DROP INDEX awakeables.awakeables_waited;
CREATE INDEX awakeables_waited ON awakeables.awakeables (invocation_id, id)
    WHERE state = 'pending' AND invocation_id IS NOT NULL;
DROP INDEX awakeables.invocations_suspect;
CREATE INDEX invocations_suspect ON awakeables.invocations (due_ms, id) WHERE starts >= 2;

UPDATE awakeables.meta SET version = 4;
