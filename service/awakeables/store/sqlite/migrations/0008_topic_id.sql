-- The broker's ID of the topic that a partition was read of: one that was created again has another.

ALTER TABLE offsets ADD COLUMN topic_id TEXT;

PRAGMA user_version = 8;
