-- A dead letter may stand for several records: how many, and up to which offset. 1 and NULL in those
-- that stand for one.

ALTER TABLE dead_letters ADD COLUMN last_offset INTEGER;
ALTER TABLE dead_letters ADD COLUMN count INTEGER NOT NULL DEFAULT 1;

CREATE INDEX dead_letters_code ON dead_letters (code);  -- to purge those of a code

PRAGMA user_version = 5;
