-- Awakeables that are watched for more than a deadline: for heartbeats, or for answers that come late. It is one
-- column, as nothing is searched by it; what was meant for this before was never written.

ALTER TABLE awakeables.awakeables DROP COLUMN heartbeat_ms, DROP COLUMN due_ms, DROP COLUMN on_late,
    ADD COLUMN watch bytea;

UPDATE awakeables.meta SET version = 5;
