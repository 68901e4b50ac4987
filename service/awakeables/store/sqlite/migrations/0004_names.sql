-- What a row can say about itself: the name of an awakeable's type beside its schema, the topic that
-- its task went to, what the handler calls it and shows of it; when a part of a journal was
-- committed; which token last acted on a row. All are NULL in rows of older releases.

ALTER TABLE awakeables ADD COLUMN type_name TEXT;
ALTER TABLE awakeables ADD COLUMN topic TEXT;
ALTER TABLE awakeables ADD COLUMN title BLOB;
ALTER TABLE awakeables ADD COLUMN about BLOB;

ALTER TABLE journal ADD COLUMN at_ms INTEGER;

ALTER TABLE invocations ADD COLUMN acted_by BLOB;
ALTER TABLE dead_letters ADD COLUMN acted_by BLOB;
ALTER TABLE outbox ADD COLUMN acted_by BLOB;

PRAGMA user_version = 4;
