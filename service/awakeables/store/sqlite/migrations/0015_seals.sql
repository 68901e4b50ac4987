-- The keys by which values are sealed, each with a value that proves that it is the same key.

CREATE TABLE seals (
    key_id  TEXT NOT NULL PRIMARY KEY,
    probe   BLOB NOT NULL
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 15;
