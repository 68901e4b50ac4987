-- schedule --
SELECT * FROM schedules WHERE name = ?

-- insert_schedule --
INSERT INTO schedules VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- update_schedule --
UPDATE schedules
SET service = ?, handler = ?, spec = ?, since_ms = ?, next_ms = ?, paused_ms = ?, last_invocation = ?, queued_ms = ?
WHERE name = ? AND next_ms = ?

-- delete_schedule --
DELETE FROM schedules WHERE name = ? AND next_ms = ?

-- schedules --
SELECT schedules.*, invocations.status
FROM schedules LEFT JOIN invocations ON invocations.id = schedules.last_invocation
ORDER BY schedules.name
