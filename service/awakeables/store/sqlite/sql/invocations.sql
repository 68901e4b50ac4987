-- invocation --
SELECT * FROM invocations WHERE id = ?

-- invocations --
SELECT invocations.*
FROM json_each(?) AS wanted
CROSS JOIN invocations ON invocations.id = wanted.value

-- insert_invocation --
INSERT INTO invocations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- update_invocation --
-- The guards are what the decision has read: its owner's fence, and what is counted by others.
UPDATE invocations
SET updated_ms = ?, epoch = ?, version = ?, wake = ?, starts = ?, attempts = ?, committed_by = ?, commits = ?,
    build = ?, failure = ?
WHERE id = ? AND epoch = ? AND version = ? AND wake = ? AND status = ?

-- move_invocation --
UPDATE invocations
SET updated_ms = ?, epoch = ?, version = ?, wake = ?, starts = ?, attempts = ?, committed_by = ?, commits = ?,
    build = ?, failure = ?, status = ?, owner = ?, due_ms = ?, cancelled_ms = ?, acted_by = ?, ticket = ?, pausing_ms = ?
WHERE id = ? AND epoch = ? AND version = ? AND wake = ? AND status = ?

-- end_invocation --
UPDATE invocations
SET updated_ms = ?, epoch = ?, version = ?, wake = ?, starts = ?, attempts = ?, committed_by = ?, commits = ?,
    build = ?, failure = ?, status = ?, owner = ?, due_ms = ?, cancelled_ms = ?, acted_by = ?, ticket = ?, pausing_ms = ?,
    result = ?, ended_ms = ?
WHERE id = ? AND epoch = ? AND version = ? AND wake = ? AND status = ?

-- await_invocation --
UPDATE invocations SET awaited = 1 WHERE id = ?

-- set_versions --
UPDATE invocations SET versions = ? WHERE id = ?

-- open_by_versions --
SELECT service, handler, versions, count(*), min(created_ms)
FROM invocations INDEXED BY invocations_open WHERE result IS NULL
GROUP BY service, handler, versions

-- due_invocations --
-- A negative due time is no instant: it has come whatever the clock says. Each of the two kinds is
-- in its order in the index; the few that are read of both are merged by `due_since_ms`.
SELECT * FROM (
    SELECT * FROM (
        SELECT * FROM invocations INDEXED BY invocations_due
        WHERE due_ms IS NOT NULL AND due_ms BETWEEN ? AND -1 AND starts < ?
            AND ifnull(build, '') NOT IN (SELECT value FROM json_each(?))
            AND service || '/' || handler || ifnull('@' || json_extract(CAST(versions AS TEXT), '$.handler'), '')
                NOT IN (SELECT value FROM json_each(?))
        ORDER BY due_ms, id LIMIT ?
    )
    UNION ALL
    SELECT * FROM (
        SELECT * FROM invocations INDEXED BY invocations_due
        WHERE due_ms IS NOT NULL AND due_ms BETWEEN ? AND ? AND starts < ?
            AND ifnull(build, '') NOT IN (SELECT value FROM json_each(?))
            AND service || '/' || handler || ifnull('@' || json_extract(CAST(versions AS TEXT), '$.handler'), '')
                NOT IN (SELECT value FROM json_each(?))
        ORDER BY due_ms, id LIMIT ?
    )
)
ORDER BY due_ms + iif(due_ms < 0, ?, 0), id LIMIT ?

-- due_suspects --
-- Nearly always none, so they are sorted. The literal is the index's own condition; the parameter
-- is the engine's.
SELECT * FROM invocations INDEXED BY invocations_suspect
WHERE due_ms IS NOT NULL AND starts >= 2 AND due_ms <= ? AND starts >= ?
    AND ifnull(build, '') NOT IN (SELECT value FROM json_each(?))
    AND service || '/' || handler || ifnull('@' || json_extract(CAST(versions AS TEXT), '$.handler'), '')
        NOT IN (SELECT value FROM json_each(?))
ORDER BY due_ms + iif(due_ms < 0, ?, 0), id LIMIT ?

-- orphaned_invocations --
SELECT * FROM invocations INDEXED BY invocations_owned
WHERE owner IS NOT NULL AND owner NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?

-- held_by --
SELECT id FROM invocations WHERE owner = ? ORDER BY id

-- list_invocations --
SELECT * FROM invocations
WHERE id < ?
    AND ifnull(service = ?, 1) AND ifnull(handler = ?, 1) AND subscription IS ifnull(?, subscription) AND ifnull(status = ?, 1)
ORDER BY id DESC LIMIT ?

-- list_open --
SELECT * FROM invocations INDEXED BY invocations_open
WHERE result IS NULL AND id < ?
    AND ifnull(service = ?, 1) AND ifnull(handler = ?, 1) AND subscription IS ifnull(?, subscription) AND ifnull(status = ?, 1)
ORDER BY id DESC LIMIT ?

-- list_subscribed --
SELECT * FROM invocations INDEXED BY invocations_subscribed
WHERE subscription IS NOT NULL AND result IS NULL AND id < ?
    AND ifnull(service = ?, 1) AND ifnull(handler = ?, 1) AND subscription = ? AND ifnull(status = ?, 1)
ORDER BY id DESC LIMIT ?

-- list_running --
SELECT * FROM invocations INDEXED BY invocations_owned
WHERE owner IS NOT NULL AND id < ?
    AND ifnull(service = ?, 1) AND ifnull(handler = ?, 1) AND subscription IS ifnull(?, subscription) AND ifnull(status = ?, 1)
ORDER BY id DESC LIMIT ?

-- list_paused --
SELECT * FROM invocations INDEXED BY invocations_paused
WHERE status = 'paused' AND id < ?
    AND ifnull(service = ?, 1) AND ifnull(handler = ?, 1) AND subscription IS ifnull(?, subscription) AND ifnull(status = ?, 1)
ORDER BY id DESC LIMIT ?

-- ended --
SELECT id, version FROM invocations INDEXED BY invocations_ended
WHERE ended_ms IS NOT NULL AND ended_ms <= ?
ORDER BY ended_ms, id LIMIT ?

-- delete_invocations --
DELETE FROM invocations WHERE id IN (SELECT value FROM json_each(?))

-- delete_journals --
DELETE FROM journal WHERE invocation_id IN (SELECT value FROM json_each(?))

-- delete_idempotent --
DELETE FROM idempotency WHERE invocation_id IN (SELECT value FROM json_each(?))

-- chunks --
SELECT version, chunk FROM journal WHERE invocation_id = ? ORDER BY version

-- insert_chunk --
INSERT INTO journal (invocation_id, version, chunk, at_ms) VALUES (?, ?, ?, ?)

-- history --
SELECT journal.invocation_id, journal.version, journal.chunk
FROM json_each(?) AS wanted
CROSS JOIN journal ON journal.invocation_id = wanted.value
ORDER BY journal.invocation_id, journal.version

-- idempotent --
SELECT fingerprint, invocation_id FROM idempotency WHERE scope = ? AND key = ?

-- insert_idempotent --
INSERT INTO idempotency VALUES (?, ?, ?, ?)

-- keyed --
-- A few scopes, each looked up by the primary key.
SELECT invocations.*
FROM json_each(?) AS wanted
CROSS JOIN idempotency ON idempotency.scope = CAST(wanted.value AS BLOB) AND idempotency.key = ?
CROSS JOIN invocations ON invocations.id = idempotency.invocation_id

-- key_of --
SELECT key FROM idempotency
WHERE invocation_id = ? AND scope NOT IN (CAST('alias' AS BLOB), CAST('conflict' AS BLOB)) LIMIT 1
