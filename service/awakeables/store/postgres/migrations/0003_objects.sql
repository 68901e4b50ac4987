-- Virtual objects: the queue of each key that has one, and its state. A ticket is an exclusive invocation's place
-- in the queue; 0: it is delayed and has none yet; NULL: it is not exclusive. A release that does not know queues
-- would not pass a key on, so it can't serve this schema.

ALTER TABLE awakeables.invocations ADD COLUMN pausing_ms bigint;  -- when a pause was asked for that has not come yet

CREATE INDEX invocations_queued ON awakeables.invocations (service, key, ticket) WHERE status = 'queued';

CREATE TABLE awakeables.objects (
    service    text COLLATE "C" NOT NULL,
    key        bytea NOT NULL,
    head       text COLLATE "C",
    tail       bigint NOT NULL,
    length     bigint NOT NULL,
    since_ms   bigint NOT NULL,
    paused_ms  bigint,
    acted_by   bytea,
    PRIMARY KEY (service, key)
) WITH (fillfactor = 50);

CREATE TABLE awakeables.state (
    service     text COLLATE "C" NOT NULL,
    key         bytea NOT NULL,
    name        bytea NOT NULL,
    value       bytea NOT NULL,
    updated_ms  bigint NOT NULL,
    PRIMARY KEY (service, key, name)
);

ALTER TABLE awakeables.objects SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

UPDATE awakeables.meta SET version = 3, served_from = 3;
