-- Handlers and services of which nothing is claimed until they are resumed.

CREATE TABLE pauses (
    target    TEXT NOT NULL PRIMARY KEY,
    since_ms  INTEGER NOT NULL,
    by        TEXT
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 16;
