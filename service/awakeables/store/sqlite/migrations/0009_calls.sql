-- A wait for a call is a row beside the awakeables: which invocation's end settles it, and whether that one is
-- cancelled with the one that waits. Most invocations are awaited by none, so each says whether it is.

ALTER TABLE invocations ADD COLUMN awaited INTEGER NOT NULL DEFAULT 0;
ALTER TABLE awakeables ADD COLUMN source BLOB;
ALTER TABLE awakeables ADD COLUMN owned INTEGER NOT NULL DEFAULT 0;

CREATE INDEX awakeables_source ON awakeables (source) WHERE state = 'pending' AND source IS NOT NULL;

DROP INDEX awakeables_pending;
CREATE INDEX awakeables_pending ON awakeables (id) WHERE state = 'pending' AND source IS NULL;

PRAGMA user_version = 9;
