-- writer --
-- Set after connecting: as start-up parameters, poolers refuse them.
SET default_transaction_isolation = 'read committed';
SET statement_timeout = '8s';
SET lock_timeout = '3s';
SET idle_in_transaction_session_timeout = '5s';  -- locks of a process that was stopped are let go
SET enable_seqscan = off;                        -- a plan made while a table was empty stays good
SET jit = off;                                   -- compiling takes longer than any of these statements
SET client_min_messages = warning;

-- reader --
SET default_transaction_isolation = 'read committed';
SET statement_timeout = '8s';
SET lock_timeout = '3s';
SET idle_in_transaction_session_timeout = '5s';
SET enable_seqscan = off;
SET jit = off;
SET client_min_messages = warning;

-- beater --
-- What a crash of the server takes back of it is written again with the next heartbeat.
SET default_transaction_isolation = 'read committed';
SET synchronous_commit = off;
SET statement_timeout = '8s';
SET lock_timeout = '3s';
SET idle_in_transaction_session_timeout = '5s';
SET client_min_messages = warning;

-- migrator --
SET default_transaction_isolation = 'read committed';
SET lock_timeout = '1s';
SET idle_in_transaction_session_timeout = '60s';
SET client_min_messages = warning;

-- limits --
-- Behind a pooler, for one transaction: what `writer` sets for a session.
SET LOCAL statement_timeout = '8s';
SET LOCAL lock_timeout = '3s';
SET LOCAL idle_in_transaction_session_timeout = '5s'

-- migrator_limits --
SET LOCAL lock_timeout = '1s';
SET LOCAL idle_in_transaction_session_timeout = '60s'

-- process --
SELECT pg_backend_pid()

-- server --
SELECT current_setting('server_version_num')::integer AS version, current_setting('server_version') AS named,
    current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby,
    current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('full_page_writes') AS full_page_writes, current_setting('autovacuum') AS autovacuum,
    current_setting('synchronous_standby_names') AS synchronous, (SELECT count(*) FROM pg_stat_replication) AS standbys

-- unset --
-- What a connection behind a pooler should have from its user's settings, and has not.
SELECT format('ALTER ROLE %I SET %I = %L', current_user, s.name, s.wanted) AS told
FROM (VALUES ('statement_timeout', '8s'), ('lock_timeout', '3s'), ('idle_in_transaction_session_timeout', '5s'),
    ('enable_seqscan', 'off'), ('jit', 'off'), ('default_transaction_isolation', 'read committed')) AS s (name, wanted)
WHERE current_setting(s.name) IN ('0', 'on', 'repeatable read', 'serializable')

-- has_meta --
SELECT to_regclass('awakeables.meta') IS NOT NULL

-- has_schema --
-- Not by to_regnamespace, whose cache may not know yet what another process has just committed.
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'awakeables')

-- meta --
SELECT m.app, m.version, m.served_from FROM awakeables.meta AS m

-- name_app --
UPDATE awakeables.meta AS m SET app = $1 WHERE m.app IS NULL

-- seals --
SELECT s.key_id, s.probe FROM awakeables.seals AS s ORDER BY s.key_id

-- add_seal --
-- From the first one on, no release serves the store that would take sealed values for clear ones.
WITH added AS (
    INSERT INTO awakeables.seals (key_id, probe) VALUES ($1, $2) ON CONFLICT (key_id) DO NOTHING
)
UPDATE awakeables.meta AS m SET served_from = greatest(m.served_from, 7)

-- drop_seal --
DELETE FROM awakeables.seals AS s WHERE s.key_id = $1

-- try_lock --
-- Let go of at the end of the transaction, so that it can't leak behind a pooler.
SELECT pg_try_advisory_xact_lock(7094612, 1)
