-- Keys are our IDs: time-ordered text, so rows are appended at one edge of a B-tree, and WITHOUT
-- ROWID saves the second one. Text that may come from outside (\u0000, lone surrogates) is a BLOB.
-- A partial index is touched by an UPDATE only if the statement sets one of its columns or one in
-- its WHERE: that is why the updates in sql/ come in narrow and wide. Every index ends in the
-- primary key, so lists are ordered by it; the column of the WHERE stands in the index, too, because
-- only then does SQLite count without looking up each row.

PRAGMA application_id = 0x61776b31;  -- 'awk1': tells our file from another program's

CREATE TABLE invocations (
    id          TEXT NOT NULL PRIMARY KEY,
    service     TEXT NOT NULL,
    handler     TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL,
    key         BLOB,
    status      TEXT NOT NULL,
    owner       TEXT,
    epoch       INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    wake        INTEGER NOT NULL,
    starts      INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    due_ms      INTEGER,
    commit_id   TEXT,
    build       TEXT,
    failure     BLOB,
    result      BLOB
) WITHOUT ROWID;

CREATE INDEX invocations_due ON invocations (due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX invocations_owned ON invocations (owner) WHERE owner IS NOT NULL;
CREATE INDEX invocations_open ON invocations (result) WHERE result IS NULL;
CREATE INDEX invocations_paused ON invocations (status) WHERE status = 'paused';

CREATE TABLE journal (
    invocation_id  TEXT NOT NULL,
    version        INTEGER NOT NULL,
    chunk          BLOB NOT NULL,
    PRIMARY KEY (invocation_id, version)
) WITHOUT ROWID;

CREATE TABLE awakeables (
    id             TEXT NOT NULL PRIMARY KEY,
    invocation_id  TEXT NOT NULL,
    created_ms     INTEGER NOT NULL,
    codec          TEXT NOT NULL,
    schema_hash    TEXT,
    deadline_ms    INTEGER,
    state          TEXT NOT NULL,
    settled_ms     INTEGER,
    settled_by     TEXT,
    outcome        BLOB,
    book           BLOB,
    beat           BLOB
) WITHOUT ROWID;

CREATE INDEX awakeables_deadline ON awakeables (deadline_ms)
    WHERE state = 'pending' AND deadline_ms IS NOT NULL;
CREATE INDEX awakeables_pending ON awakeables (state) WHERE state = 'pending';

CREATE TABLE schemas (
    hash  TEXT NOT NULL PRIMARY KEY,
    body  BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE outbox (
    event_id      TEXT NOT NULL PRIMARY KEY,
    stream        TEXT NOT NULL,
    claimed_by    TEXT NOT NULL,
    state         TEXT NOT NULL,
    created_ms    INTEGER NOT NULL,
    topic         TEXT NOT NULL,
    reason        BLOB,
    task          BLOB,
    headers       BLOB,
    key           BLOB,
    value         BLOB
) WITHOUT ROWID;

CREATE INDEX outbox_claimed ON outbox (state, claimed_by) WHERE state = 'unsent';
CREATE INDEX outbox_stream ON outbox (stream) WHERE state = 'unsent';
CREATE INDEX outbox_failed ON outbox (state) WHERE state = 'failed';

CREATE TABLE dead_letters (
    id            TEXT NOT NULL PRIMARY KEY,
    source        TEXT NOT NULL UNIQUE,
    topic         TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    "offset"      INTEGER NOT NULL,
    timestamp_ms  INTEGER NOT NULL,
    code          TEXT NOT NULL,
    reason        BLOB NOT NULL,
    at_ms         INTEGER NOT NULL,
    awakeable_id  BLOB,
    headers       BLOB,
    key           BLOB,
    value         BLOB
) WITHOUT ROWID;

CREATE TABLE offsets (
    topic      TEXT NOT NULL,
    partition  INTEGER NOT NULL,
    next       INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    owner      TEXT,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;

CREATE TABLE idempotency (
    scope          BLOB NOT NULL,
    key            BLOB NOT NULL,
    fingerprint    TEXT NOT NULL,
    invocation_id  TEXT NOT NULL,
    PRIMARY KEY (scope, key)
) WITHOUT ROWID;

PRAGMA user_version = 1;
