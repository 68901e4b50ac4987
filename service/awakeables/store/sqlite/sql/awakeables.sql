-- awakeable --
SELECT * FROM awakeables WHERE id = ?

-- awakeables --
SELECT awakeables.*
FROM json_each(?) AS wanted
CROSS JOIN awakeables ON awakeables.id = wanted.value

-- insert_awakeable --
INSERT INTO awakeables VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- note_awakeable --
-- A sealed book is another text each time that it is sealed; its first bytes are `core/sealed.py`'s MAGIC.
UPDATE awakeables SET book = ?, beat = ?, topic = ?
WHERE id = ? AND state = ? AND (book IS ? OR substr(book, 1, 8) = x'0061776B930D0A01')

-- watch_awakeable --
UPDATE awakeables SET deadline_ms = ?, watch = ? WHERE id = ?

-- settle_awakeable --
UPDATE awakeables
SET book = ?, beat = ?, topic = ?, state = ?, settled_ms = ?, settled_by = ?, outcome = ?
WHERE id = ? AND state = ? AND (book IS ? OR substr(book, 1, 8) = x'0061776B930D0A01')

-- pending_of --
SELECT invocation_id, id FROM awakeables INDEXED BY awakeables_waited
WHERE state = 'pending' AND invocation_id IN (SELECT value FROM json_each(?))

-- awakeables_of --
-- Looks at every row: those that have ended are found by the journals of their invocations, unless these can't be read.
SELECT invocation_id, id FROM awakeables NOT INDEXED WHERE invocation_id IN (SELECT value FROM json_each(?))

-- waits_of --
SELECT * FROM awakeables INDEXED BY awakeables_waited
WHERE state = 'pending' AND invocation_id = ? ORDER BY id LIMIT ?

-- waiting_for --
SELECT CAST(awakeables.source AS TEXT), awakeables.id
FROM json_each(?) AS wanted
CROSS JOIN awakeables INDEXED BY awakeables_source ON awakeables.source = CAST(wanted.value AS BLOB)
WHERE awakeables.state = 'pending' AND awakeables.source IS NOT NULL

-- count_pending --
SELECT count(*) FROM awakeables WHERE id IN (SELECT value FROM json_each(?)) AND state = 'pending' AND source IS NULL

-- delete_awakeables --
DELETE FROM awakeables WHERE id IN (SELECT value FROM json_each(?))

-- overdue_awakeables --
SELECT * FROM awakeables INDEXED BY awakeables_deadline
WHERE state = 'pending' AND deadline_ms IS NOT NULL AND deadline_ms <= ?
ORDER BY deadline_ms, id LIMIT ?

-- outcomes --
SELECT awakeables.settled_ms, awakeables.id, awakeables.outcome
FROM json_each(?) AS wanted
CROSS JOIN awakeables ON awakeables.id = wanted.value
WHERE awakeables.outcome IS NOT NULL

-- expectations --
SELECT
    awakeables.id, awakeables.invocation_id, awakeables.codec, awakeables.type_name, awakeables.schema_hash,
    schemas.body, awakeables.watch
FROM json_each(?) AS wanted
CROSS JOIN awakeables ON awakeables.id = wanted.value
LEFT JOIN schemas ON schemas.hash = awakeables.schema_hash

-- list_awakeables --
SELECT * FROM awakeables WHERE id < ? AND source IS NULL ORDER BY id DESC LIMIT ?

-- list_pending --
SELECT * FROM awakeables INDEXED BY awakeables_pending
WHERE state = 'pending' AND source IS NULL AND id < ?
ORDER BY id DESC LIMIT ?

-- list_settled --
SELECT * FROM awakeables WHERE id < ? AND state = ? AND source IS NULL ORDER BY id DESC LIMIT ?

-- insert_schema --
INSERT OR IGNORE INTO schemas VALUES (?, ?)
