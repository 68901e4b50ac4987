-- Up to where a partition was read before an operator has moved it: what is before is read again.

ALTER TABLE offsets ADD COLUMN again_before INTEGER NOT NULL DEFAULT 0;

PRAGMA user_version = 6;
