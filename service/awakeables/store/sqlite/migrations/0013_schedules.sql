-- Schedules: the next tick of each, and what the last one has begun.

CREATE TABLE schedules (
    name             TEXT NOT NULL PRIMARY KEY,
    service          TEXT NOT NULL,
    handler          TEXT NOT NULL,
    spec             BLOB NOT NULL,
    since_ms         INTEGER NOT NULL,
    next_ms          INTEGER NOT NULL,
    paused_ms        INTEGER,
    last_invocation  TEXT,
    queued_ms        INTEGER
) WITHOUT ROWID;

PRAGMA user_version = 13;
