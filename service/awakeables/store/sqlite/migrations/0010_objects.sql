-- When an operator has asked for a pause that has not come yet: an invocation that runs is paused at its next wait.
--
-- Virtual objects: the queue of each key that has one, and its state. A ticket is an exclusive invocation's place
-- in the queue; 0: it is delayed and has none yet; NULL: it is not exclusive. Keys and names may be any text from
-- outside, so they are BLOBs.

ALTER TABLE invocations ADD COLUMN ticket INTEGER;
ALTER TABLE invocations ADD COLUMN pausing_ms INTEGER;

CREATE INDEX invocations_queued ON invocations (service, key, ticket) WHERE status = 'queued';

CREATE TABLE objects (
    service    TEXT NOT NULL,
    key        BLOB NOT NULL,
    head       TEXT,
    tail       INTEGER NOT NULL,
    length     INTEGER NOT NULL,
    since_ms   INTEGER NOT NULL,
    paused_ms  INTEGER,
    acted_by   BLOB,
    PRIMARY KEY (service, key)
) WITHOUT ROWID;

CREATE TABLE state (
    service     TEXT NOT NULL,
    key         BLOB NOT NULL,
    name        BLOB NOT NULL,
    value       BLOB NOT NULL,
    updated_ms  INTEGER NOT NULL,
    PRIMARY KEY (service, key, name)
) WITHOUT ROWID;

PRAGMA user_version = 10;
