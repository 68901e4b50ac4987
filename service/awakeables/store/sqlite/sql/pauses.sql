-- pause --
SELECT * FROM pauses WHERE target = ?

-- pauses --
SELECT * FROM pauses ORDER BY target

-- insert_pause --
INSERT INTO pauses VALUES (?, ?, ?)

-- delete_pause --
DELETE FROM pauses WHERE target = ?
