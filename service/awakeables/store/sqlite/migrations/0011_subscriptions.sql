-- Subscriptions: each reads its topics from positions of its own; the empty name is the completions topic's. An
-- invocation keeps the name of the subscription whose record it is for.

ALTER TABLE invocations ADD COLUMN subscription TEXT;

CREATE INDEX invocations_subscribed ON invocations (subscription)
    WHERE subscription IS NOT NULL AND result IS NULL;

CREATE TABLE positions (
    subscription  TEXT NOT NULL,
    topic         TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    next          INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    owner         TEXT,
    again_before  INTEGER NOT NULL,
    topic_id      TEXT,
    paused_ms     INTEGER,
    PRIMARY KEY (subscription, topic, partition)
) WITHOUT ROWID;

INSERT INTO positions
SELECT '', topic, partition, next, epoch, owner, again_before, topic_id, NULL FROM offsets;

DROP TABLE offsets;
ALTER TABLE positions RENAME TO offsets;

PRAGMA user_version = 11;
