-- queue --
SELECT * FROM objects WHERE service = ? AND key = ?

-- queues --
SELECT * FROM objects WHERE service = ? AND key > ? ORDER BY key LIMIT ?

-- insert_object --
INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- update_object --
UPDATE objects SET head = ?, tail = ?, length = ?, since_ms = ?, paused_ms = ?, acted_by = ?
WHERE service = ? AND key = ? AND head IS ? AND tail = ? AND length = ? AND paused_ms IS ?

-- delete_object --
DELETE FROM objects
WHERE service = ? AND key = ? AND head IS ? AND tail = ? AND length = ? AND paused_ms IS ?

-- next_queued --
SELECT id FROM invocations INDEXED BY invocations_queued
WHERE status = 'queued' AND service = ? AND key = ? AND ticket > ? ORDER BY ticket LIMIT 1

-- in_line --
SELECT * FROM invocations INDEXED BY invocations_queued
WHERE status = 'queued' AND service = ? AND key = ? ORDER BY ticket LIMIT ?

-- oldest_queued --
-- Hops from key to key along the index, and looks at the first in line of each, of 1,000 keys at most.
WITH RECURSIVE firsts (id) AS (
    SELECT (SELECT id FROM invocations INDEXED BY invocations_queued WHERE status = 'queued'
            ORDER BY service, key, ticket LIMIT 1)
    UNION ALL
    SELECT (SELECT next.id FROM invocations AS next INDEXED BY invocations_queued
            WHERE next.status = 'queued'
                -- The largest integer, without which the whole queue of the key would be passed.
                AND (next.service, next.key, next.ticket) > (last.service, last.key, 9223372036854775807)
            ORDER BY next.service, next.key, next.ticket LIMIT 1)
    FROM firsts CROSS JOIN invocations AS last ON last.id = firsts.id
    LIMIT 1000
)
SELECT first.service, min(first.updated_ms) FROM firsts CROSS JOIN invocations AS first ON first.id = firsts.id
GROUP BY first.service

-- state --
SELECT value FROM state WHERE service = ? AND key = ? AND name = ?

-- state_names --
SELECT name FROM state WHERE service = ? AND key = ? ORDER BY name

-- states --
SELECT name, value, updated_ms FROM state WHERE service = ? AND key = ? AND name > ? ORDER BY name LIMIT ?

-- write_state --
INSERT INTO state VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value, updated_ms = excluded.updated_ms

-- clear_state --
DELETE FROM state WHERE service = ? AND key = ? AND name = ?

-- keys_with_state --
-- Hops from key to key along the primary key, whatever the number of names of each.
WITH RECURSIVE keys (key) AS (
    SELECT (SELECT min(state.key) FROM state WHERE state.service = ? AND state.key > ?)
    UNION ALL
    SELECT (SELECT min(state.key) FROM state WHERE state.service = ? AND state.key > keys.key)
    FROM keys WHERE keys.key IS NOT NULL
)
SELECT key FROM keys WHERE key IS NOT NULL LIMIT ?

-- written_since --
SELECT name, updated_ms FROM state WHERE service = ? AND key = ?
