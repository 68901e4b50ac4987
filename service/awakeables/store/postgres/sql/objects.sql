-- object_columns --
q.service, q.key, q.head, q.tail, q.length, q.since_ms, q.paused_ms, q.acted_by

-- load_objects --
SELECT 'objects', ROW(@object_columns)
FROM unnest($1::text[], $2::bytea[]) AS wanted (service, key)
JOIN awakeables.objects AS q ON q.service = wanted.service AND q.key = wanted.key

-- load_queue --
SELECT 'queue', ROW(wanted.service, wanted.key, wanted.ticket, next.id)
FROM unnest($1::text[], $2::bytea[], $3::bigint[]) AS wanted (service, key, ticket)
CROSS JOIN LATERAL (
    SELECT i.id FROM awakeables.invocations AS i
    WHERE i.status = 'queued' AND i.service = wanted.service AND i.key = wanted.key AND i.ticket > wanted.ticket
    ORDER BY i.ticket LIMIT 1
) AS next

-- load_states --
SELECT 'states', ROW(s.service, s.key, array_agg(s.name ORDER BY s.name))
FROM unnest($1::text[], $2::bytea[]) AS wanted (service, key)
JOIN awakeables.state AS s ON s.service = wanted.service AND s.key = wanted.key
GROUP BY s.service, s.key

-- lock_objects --
SELECT q.service
FROM unnest($1::text[], $2::bytea[]) AS wanted (service, key)
JOIN awakeables.objects AS q ON q.service = wanted.service AND q.key = wanted.key
ORDER BY q.service, q.key FOR UPDATE OF q

-- hold_place --
-- A row that is not there can't be locked. This one is inserted and deleted again, which keeps others from
-- inserting one of this key until the transaction ends.
INSERT INTO awakeables.objects (service, key, head, tail, length, since_ms)
SELECT n.service, n.key, NULL, 0, 0, 0
FROM unnest($1::text[], $2::bytea[]) AS n (service, key)
ON CONFLICT (service, key) DO NOTHING

-- free_place --
DELETE FROM awakeables.objects AS q
USING unnest($1::text[], $2::bytea[]) AS n (service, key)
WHERE q.service = n.service AND q.key = n.key AND q.length = 0 AND q.head IS NULL AND q.paused_ms IS NULL

-- hold_objects --
SELECT q.service
FROM unnest($1::text[], $2::bytea[]) AS wanted (service, key)
JOIN awakeables.objects AS q ON q.service = wanted.service AND q.key = wanted.key
WHERE @after
ORDER BY q.service, q.key FOR UPDATE OF q

-- update_objects --
UPDATE awakeables.objects AS q
SET head = n.head, tail = n.tail, length = n.length, since_ms = n.since_ms, paused_ms = n.paused_ms,
    acted_by = n.acted_by
FROM unnest($1::text[], $2::bytea[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bytea[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[])
    AS n (service, key, head, tail, length, since_ms, paused_ms, acted_by, old_head, old_tail, old_length,
          old_paused_ms)
WHERE @after AND q.service = n.service AND q.key = n.key AND q.head IS NOT DISTINCT FROM n.old_head
    AND q.tail = n.old_tail AND q.length = n.old_length AND q.paused_ms IS NOT DISTINCT FROM n.old_paused_ms
RETURNING 1

-- delete_objects --
DELETE FROM awakeables.objects AS q
USING unnest($1::text[], $2::bytea[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS n (service, key, old_head, old_tail, old_length, old_paused_ms)
WHERE @after AND q.service = n.service AND q.key = n.key AND q.head IS NOT DISTINCT FROM n.old_head
    AND q.tail = n.old_tail AND q.length = n.old_length AND q.paused_ms IS NOT DISTINCT FROM n.old_paused_ms
RETURNING 1

-- insert_objects --
INSERT INTO awakeables.objects (service, key, head, tail, length, since_ms, paused_ms, acted_by)
SELECT n.service, n.key, n.head, n.tail, n.length, n.since_ms, n.paused_ms, n.acted_by
FROM unnest($1::text[], $2::bytea[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bytea[])
    AS n (service, key, head, tail, length, since_ms, paused_ms, acted_by)
WHERE @after
RETURNING 1

-- write_states --
INSERT INTO awakeables.state (service, key, name, value, updated_ms)
SELECT n.service, n.key, n.name, n.value, n.updated_ms
FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bigint[])
    AS n (service, key, name, value, updated_ms)
WHERE @after
ON CONFLICT (service, key, name) DO UPDATE SET value = excluded.value, updated_ms = excluded.updated_ms
RETURNING 1

-- clear_states --
DELETE FROM awakeables.state AS s
USING unnest($1::text[], $2::bytea[], $3::bytea[]) AS n (service, key, name)
WHERE @after AND s.service = n.service AND s.key = n.key AND s.name = n.name
RETURNING 1

-- queue --
SELECT @object_columns FROM awakeables.objects AS q WHERE q.service = $1 AND q.key = $2

-- queues --
SELECT @object_columns FROM awakeables.objects AS q
WHERE q.service = $1 AND q.key > $2 ORDER BY q.key LIMIT $3

-- in_line --
SELECT @invocation_columns FROM awakeables.invocations AS i
WHERE i.status = 'queued' AND i.service = $1 AND i.key = $2 ORDER BY i.ticket LIMIT $3

-- waits_of --
SELECT @awakeable_columns FROM awakeables.awakeables AS a
WHERE a.state = 'pending' AND a.invocation_id = $1 ORDER BY a.id LIMIT $2

-- state --
SELECT s.value FROM awakeables.state AS s WHERE s.service = $1 AND s.key = $2 AND s.name = $3

-- state_names --
SELECT s.name FROM awakeables.state AS s WHERE s.service = $1 AND s.key = $2 ORDER BY s.name

-- states --
SELECT s.name, s.value, s.updated_ms FROM awakeables.state AS s
WHERE s.service = $1 AND s.key = $2 AND s.name > $3 ORDER BY s.name LIMIT $4

-- keys_with_state --
-- Hops from key to key along the primary key, whatever the number of names of each.
WITH RECURSIVE keys (key) AS (
    (SELECT s.key FROM awakeables.state AS s WHERE s.service = $1 AND s.key > $2 ORDER BY s.key LIMIT 1)
    UNION ALL
    SELECT next.key FROM keys
    CROSS JOIN LATERAL (
        SELECT s.key FROM awakeables.state AS s
        WHERE s.service = $1 AND s.key > keys.key ORDER BY s.key LIMIT 1
    ) AS next
)
SELECT keys.key FROM keys LIMIT $3

-- states_of_keys --
SELECT s.key, array_agg(s.name ORDER BY s.name), max(s.updated_ms),
    EXISTS (SELECT 1 FROM awakeables.objects AS q WHERE q.service = $1 AND q.key = s.key)
FROM awakeables.state AS s WHERE s.service = $1 AND s.key = ANY($2::bytea[])
GROUP BY s.key ORDER BY s.key
