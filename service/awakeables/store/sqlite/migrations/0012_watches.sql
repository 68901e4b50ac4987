-- Awakeables that are watched for more than a deadline: for heartbeats, or for answers that come late.

ALTER TABLE awakeables ADD COLUMN watch BLOB;

PRAGMA user_version = 12;
