-- writer --
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;              -- an acknowledged commit survives a power cut
PRAGMA busy_timeout = 5000;             -- ms; only a backup or a curious sqlite3 shell can be in the way
PRAGMA foreign_keys = OFF;              -- every reference is checked by a decision, in the same transaction
PRAGMA cache_size = -65536;             -- KiB: 64 MiB keep the inner pages of some ten million rows
PRAGMA temp_store = MEMORY;             -- sorts of a claim are small; no temporary files
PRAGMA mmap_size = 0;                   -- a bad disk block must be an error, mapped it would be SIGBUS
PRAGMA wal_autocheckpoint = 4000;       -- pages: 16 MiB, so that a hot page is written back once, not often
PRAGMA journal_size_limit = 67108864;   -- bytes: after a burst the log shrinks to 64 MiB again

-- reader --
PRAGMA query_only = ON;
PRAGMA busy_timeout = 5000;             -- ms; a reader waits only while the log is recovered
PRAGMA cache_size = -16384;             -- KiB: lists and histories read each page once
PRAGMA temp_store = MEMORY;
PRAGMA mmap_size = 0;

-- begin --
BEGIN IMMEDIATE

-- commit --
COMMIT

-- roll_back --
ROLLBACK

-- checkpoint --
PRAGMA wal_checkpoint(TRUNCATE)

-- schema_version --
PRAGMA user_version

-- application_id --
PRAGMA application_id

-- is_empty --
SELECT count(*) = 0 FROM sqlite_schema

-- app_name --
SELECT name FROM app WHERE id = 1

-- name_app --
INSERT OR IGNORE INTO app VALUES (1, ?)

-- seals --
SELECT key_id, probe FROM seals ORDER BY key_id

-- add_seal --
INSERT OR IGNORE INTO seals VALUES (?, ?)

-- drop_seal --
DELETE FROM seals WHERE key_id = ?

-- add_probe --
-- Larger than a page, so that it needs new ones, as rows do. No schema has this hash.
INSERT INTO schemas VALUES ('probe', zeroblob(65536))

-- drop_probe --
DELETE FROM schemas WHERE hash = 'probe'
