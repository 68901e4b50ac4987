-- insert_effect --
INSERT OR IGNORE INTO outbox (
    event_id, stream, claimed_by, state, created_ms, topic, task, headers, key, value
)
VALUES (?, ?, ?, 'unsent', ?, ?, ?, ?, ?, ?)

-- drop_effect --
DELETE FROM outbox WHERE event_id = ?

-- drop_failed --
-- Those of them that are failed, so that both kinds are counted: the index has few entries, mostly none.
DELETE FROM outbox INDEXED BY outbox_failed WHERE state = 'failed' AND event_id = ?

-- effect --
SELECT * FROM outbox WHERE event_id = ? AND state = 'unsent'

-- fail_effect --
UPDATE outbox SET state = 'failed', reason = ? WHERE event_id = ? AND state = 'unsent'

-- queued_effect --
SELECT * FROM outbox WHERE event_id = ?

-- requeue_effect --
UPDATE outbox SET state = 'unsent', claimed_by = ?, reason = NULL, acted_by = ? WHERE event_id = ? AND state = 'failed'

-- forget_failed --
-- By the time in the ID, not by created_ms: for that each failed row would be looked up.
DELETE FROM outbox WHERE event_id IN (
    SELECT event_id FROM outbox INDEXED BY outbox_failed
    WHERE state = 'failed' AND event_id > ? AND event_id < ? ORDER BY event_id LIMIT ?
)

-- other_holders --
-- Hops from owner to owner along the index: few steps, however many effects each holds.
WITH RECURSIVE holders (name) AS (
    SELECT min(claimed_by) FROM outbox WHERE state = 'unsent'
    UNION ALL
    SELECT (SELECT min(claimed_by) FROM outbox WHERE state = 'unsent' AND claimed_by > holders.name)
    FROM holders WHERE holders.name IS NOT NULL
)
SELECT name FROM holders WHERE name IS NOT NULL AND name <> ?

-- oldest_of_holder --
SELECT event_id, stream FROM outbox
WHERE state = 'unsent' AND claimed_by = ?
ORDER BY event_id LIMIT ?

-- unclaimed_of_streams --
SELECT outbox.*
FROM json_each(?) AS wanted
CROSS JOIN outbox ON outbox.stream = wanted.value
WHERE outbox.state = 'unsent' AND outbox.claimed_by <> ?
ORDER BY outbox.event_id

-- claim_effect --
UPDATE outbox SET claimed_by = ? WHERE event_id = ?

-- list_unsent --
-- Hops from owner to owner as above, and takes the oldest of each: what has failed is not looked at.
WITH RECURSIVE holders (name) AS (
    SELECT min(claimed_by) FROM outbox WHERE state = 'unsent'
    UNION ALL
    SELECT (SELECT min(claimed_by) FROM outbox WHERE state = 'unsent' AND claimed_by > holders.name)
    FROM holders WHERE holders.name IS NOT NULL
)
SELECT * FROM outbox WHERE event_id IN (
    SELECT held.event_id
    FROM holders
    CROSS JOIN outbox AS held ON held.event_id IN (
        SELECT event_id FROM outbox
        WHERE state = 'unsent' AND claimed_by = holders.name
        ORDER BY event_id LIMIT ?
    )
    ORDER BY held.event_id LIMIT ?
)
ORDER BY event_id

-- list_failed --
SELECT * FROM outbox INDEXED BY outbox_failed WHERE state = 'failed' ORDER BY event_id LIMIT ?

-- newest_unsent --
-- Hops from owner to owner as above, and takes the newest of each: what has failed is not looked at.
WITH RECURSIVE holders (name) AS (
    SELECT min(claimed_by) FROM outbox WHERE state = 'unsent'
    UNION ALL
    SELECT (SELECT min(claimed_by) FROM outbox WHERE state = 'unsent' AND claimed_by > holders.name)
    FROM holders WHERE holders.name IS NOT NULL
)
SELECT outbox.*
FROM holders
CROSS JOIN outbox ON outbox.event_id IN (
    SELECT event_id FROM outbox AS held
    WHERE held.state = 'unsent' AND held.claimed_by = holders.name AND held.event_id > ? AND held.event_id < ?
    ORDER BY held.event_id DESC LIMIT ?
)

-- newest_failed --
SELECT * FROM outbox INDEXED BY outbox_failed
WHERE state = 'failed' AND event_id > ? AND event_id < ?
ORDER BY event_id DESC LIMIT ?
