-- has_dead_letter --
SELECT 1 FROM dead_letters WHERE source = ?

-- insert_dead_letter --
INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- dead_letter --
SELECT * FROM dead_letters WHERE id = ?

-- list_dead_letters --
SELECT * FROM dead_letters WHERE id < ? ORDER BY id DESC LIMIT ?

-- position --
SELECT partition, next, epoch FROM offsets WHERE topic = ? AND partition = ?

-- put_position --
INSERT INTO offsets VALUES (?, ?, ?, ?, ?)
ON CONFLICT (topic, partition) DO UPDATE
SET next = excluded.next, epoch = excluded.epoch, owner = ifnull(excluded.owner, owner)

-- positions --
SELECT partition, next, epoch FROM offsets WHERE topic = ? ORDER BY partition

-- counts --
SELECT
    (SELECT count(*) FROM awakeables WHERE state = 'pending'),
    (SELECT count(*) FROM invocations WHERE result IS NULL),
    (SELECT count(*) FROM outbox INDEXED BY outbox_claimed WHERE state = 'unsent'),
    (SELECT count(*) FROM outbox WHERE state = 'failed'),
    (SELECT count(*) FROM dead_letters)
