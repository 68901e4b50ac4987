-- dead_letters_of --
SELECT dead_letters.source, dead_letters.id
FROM json_each(?) AS wanted
CROSS JOIN dead_letters ON dead_letters.source = wanted.value

-- insert_dead_letter --
INSERT INTO dead_letters (
    id, source, topic, partition, "offset", timestamp_ms, code, reason, at_ms, awakeable_id, headers, key, value,
    resent, acted_by, last_offset, count
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- dead_letter --
SELECT * FROM dead_letters WHERE id = ?

-- dead_letters --
SELECT dead_letters.*
FROM json_each(?) AS wanted
CROSS JOIN dead_letters ON dead_letters.id = wanted.value

-- update_dead_letter --
UPDATE dead_letters SET resent = ?, acted_by = ?, last_offset = ?, count = ?
WHERE id = ? AND resent = ? AND count = ?

-- old_dead_letters --
SELECT id FROM dead_letters WHERE id < ? ORDER BY id LIMIT ?

-- old_dead_letters_of --
SELECT id FROM dead_letters INDEXED BY dead_letters_code WHERE code = ? AND id < ? ORDER BY id LIMIT ?

-- delete_dead_letters --
DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))

-- list_dead_letters --
SELECT * FROM dead_letters WHERE id < ? ORDER BY id DESC LIMIT ?

-- position --
SELECT * FROM offsets WHERE subscription = ? AND topic = ? AND partition = ?

-- insert_position --
INSERT INTO offsets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- update_position --
UPDATE offsets SET next = ?, epoch = ?, owner = ?, again_before = ?, topic_id = ?, paused_ms = ?
WHERE subscription = ? AND topic = ? AND partition = ? AND next = ? AND epoch = ?

-- positions --
SELECT * FROM offsets WHERE subscription = ? AND topic = ? ORDER BY partition

-- subscribed --
SELECT DISTINCT subscription, topic FROM offsets WHERE subscription <> '' ORDER BY subscription, topic

-- count_open_of --
SELECT count(*) FROM (
    SELECT 1 FROM invocations INDEXED BY invocations_subscribed
    WHERE subscription IS NOT NULL AND subscription = ? AND result IS NULL LIMIT ?
)

-- oldest_pending --
SELECT created_ms FROM awakeables INDEXED BY awakeables_pending WHERE state = 'pending' AND source IS NULL ORDER BY id LIMIT 1

-- oldest_unsent --
-- A copy of a dead letter has the letter's ID, which sorts before those of all other effects:
-- per holder the first ID of either kind is looked up.
WITH RECURSIVE holders (name) AS (
    SELECT min(claimed_by) FROM outbox WHERE state = 'unsent'
    UNION ALL
    SELECT (SELECT min(claimed_by) FROM outbox WHERE state = 'unsent' AND claimed_by > holders.name)
    FROM holders WHERE holders.name IS NOT NULL
), firsts (event_id) AS (
    SELECT (SELECT min(event_id) FROM outbox WHERE state = 'unsent' AND claimed_by = name)
    FROM holders
    UNION
    SELECT (SELECT min(event_id) FROM outbox
            WHERE state = 'unsent' AND claimed_by = name AND event_id > 'evt')
    FROM holders
)
SELECT min(outbox.created_ms) FROM firsts CROSS JOIN outbox USING (event_id)

-- count_rows --
SELECT
    (SELECT count(*) FROM outbox INDEXED BY outbox_claimed WHERE state = 'unsent'),
    (SELECT count(*) FROM outbox INDEXED BY outbox_failed WHERE state = 'failed'),
    (SELECT count(*) FROM dead_letters INDEXED BY sqlite_autoindex_dead_letters_1),
    (SELECT count(*) FROM awakeables INDEXED BY awakeables_pending WHERE state = 'pending' AND source IS NULL),
    (SELECT count(*) FROM invocations INDEXED BY invocations_open WHERE result IS NULL),
    (SELECT count(*) FROM invocations INDEXED BY invocations_owned WHERE owner IS NOT NULL),
    (SELECT count(*) FROM invocations INDEXED BY invocations_paused WHERE status = 'paused'),
    (SELECT count(*) FROM invocations INDEXED BY invocations_queued WHERE status = 'queued')

-- count_due --
SELECT status, count(*) FROM invocations INDEXED BY invocations_due
WHERE due_ms IS NOT NULL GROUP BY status
