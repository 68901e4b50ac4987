-- insert_effect --
INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- effects --
SELECT outbox.*
FROM json_each(?) AS wanted
CROSS JOIN outbox ON outbox.event_id = wanted.value

-- delete_unsent --
DELETE FROM outbox WHERE event_id = ? AND state = 'unsent'

-- delete_failed --
DELETE FROM outbox WHERE event_id = ? AND state = 'failed'

-- update_effect --
UPDATE outbox SET state = ?, claimed_by = ?, reason = ?, acted_by = ?, position = ?
WHERE event_id = ? AND state = ? AND claimed_by = ?

-- claim_effect --
-- Narrow: only the index of the claims is touched.
UPDATE outbox SET claimed_by = ? WHERE event_id = ? AND state = ? AND claimed_by = ?

-- effect --
SELECT * FROM outbox WHERE event_id = ?

-- old_failed --
-- By the time in the ID, not by created_ms: for that each failed row would be looked up.
SELECT event_id FROM outbox INDEXED BY outbox_failed
WHERE state = 'failed' AND event_id > ? AND event_id < ? ORDER BY event_id LIMIT ?

-- delete_effects --
DELETE FROM outbox WHERE event_id IN (SELECT value FROM json_each(?))

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
-- Without streams of which one of the given holders has an effect.
SELECT event_id, stream FROM outbox
WHERE state = 'unsent' AND claimed_by = ? AND NOT EXISTS (
    SELECT 1 FROM outbox AS held WHERE held.state = 'unsent' AND held.stream = outbox.stream
        AND held.claimed_by IN (SELECT value FROM json_each(?))
)
ORDER BY event_id LIMIT ?

-- unclaimed_of_streams --
SELECT outbox.*
FROM json_each(?) AS wanted
CROSS JOIN outbox ON outbox.stream = wanted.value
WHERE outbox.state = 'unsent' AND outbox.claimed_by <> ?
ORDER BY outbox.event_id

-- unsent_of --
-- The streams of the oldest, each whole, in the order in which they are to be published: by event ID
-- alone a clock that was set back would turn a stream's order round. Only what the limit leaves is read.
SELECT outbox.*
FROM (
    SELECT held.event_id, held.position
    FROM (
        SELECT DISTINCT stream FROM (
            SELECT stream FROM outbox WHERE state = 'unsent' AND claimed_by = ? ORDER BY event_id LIMIT ?
        )
    ) AS oldest
    CROSS JOIN outbox AS held ON held.stream = oldest.stream
    WHERE held.state = 'unsent' AND held.claimed_by = ?
    ORDER BY held.position, held.event_id LIMIT ?
) AS chosen
CROSS JOIN outbox ON outbox.event_id = chosen.event_id

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
