-- IDs sort bytewise (COLLATE "C"), as they do in memory and in SQLite. Text that may come from outside is
-- bytea: `text` refuses \u0000. Counters are bigint, so that no value can be out of one column's range and
-- in another's. `rev` is a new random number with each write and guards everything in its row but `wake`.
-- The columns after `rev` are for releases to come, which can then serve beside this one; nothing writes them yet.

CREATE SCHEMA awakeables;

CREATE TABLE awakeables.meta (
    id           boolean PRIMARY KEY DEFAULT true CHECK (id),  -- one row
    app          text,             -- whose database it is; NULL: nobody's yet
    version      bigint NOT NULL,  -- of the schema
    served_from  bigint NOT NULL,  -- releases that know at least this version can serve it
    created_ms   bigint NOT NULL,
    probes       bigint NOT NULL DEFAULT 0
);

CREATE TABLE awakeables.invocations (
    id            text COLLATE "C" PRIMARY KEY,
    service       text NOT NULL,
    handler       text NOT NULL,
    created_ms    bigint NOT NULL,
    updated_ms    bigint NOT NULL,
    key           bytea,
    status        text NOT NULL,
    owner         text COLLATE "C",
    epoch         bigint NOT NULL,
    version       bigint NOT NULL,
    wake          bigint NOT NULL,
    starts        bigint NOT NULL,
    attempts      bigint NOT NULL,
    due_ms        bigint,
    committed_by  text COLLATE "C",
    build         text,
    failure       bytea,
    result        bytea,
    cancelled_ms  bigint,
    ended_ms      bigint,
    acted_by      bytea,
    commits       bigint NOT NULL,
    origin        text COLLATE "C",
    rev           integer NOT NULL,
    ticket        bigint,  -- its place among the calls of one key; NULL: its handler takes them all at once
    versions      bytea    -- JSON: which versions of code its journal was written by; NULL: none is named
);

CREATE INDEX invocations_due ON awakeables.invocations (due_ms, id) WHERE due_ms IS NOT NULL;
CREATE INDEX invocations_suspect ON awakeables.invocations (due_ms, id) WHERE due_ms IS NOT NULL AND starts >= 2;
CREATE INDEX invocations_owned ON awakeables.invocations (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX invocations_open ON awakeables.invocations (id) WHERE result IS NULL;
CREATE INDEX invocations_paused ON awakeables.invocations (id) WHERE status = 'paused';
CREATE INDEX invocations_ended ON awakeables.invocations (ended_ms, id) WHERE ended_ms IS NOT NULL;

CREATE TABLE awakeables.journal (
    invocation_id  text COLLATE "C" NOT NULL,
    version        bigint NOT NULL,
    chunk          bytea NOT NULL,
    at_ms          bigint,
    PRIMARY KEY (invocation_id, version)
);

CREATE TABLE awakeables.awakeables (
    id             text COLLATE "C" PRIMARY KEY,
    invocation_id  text COLLATE "C" NOT NULL,
    created_ms     bigint NOT NULL,
    codec          text NOT NULL,
    schema_hash    text,
    deadline_ms    bigint,
    state          text NOT NULL,
    settled_ms     bigint,
    settled_by     text,
    outcome        bytea,
    book           bytea,
    beat           bytea,
    type_name      text,
    topic          text,
    title          bytea,
    about          bytea,
    rev            integer NOT NULL,
    source         bytea,   -- the invocation or promise that settles it; NULL: completions do
    owned          boolean NOT NULL DEFAULT false,  -- whether that invocation is cancelled with the one that waits
    heartbeat_ms   bigint,  -- the longest time between two heartbeats; NULL: unlimited
    due_ms         bigint,  -- the deadline, or when the next heartbeat is overdue if that is earlier; NULL: as deadline_ms
    on_late        text     -- what else comes of a late completion, `dead-letter` or a handler's name; NULL: nothing
);

CREATE INDEX awakeables_deadline ON awakeables.awakeables (deadline_ms, id)
    WHERE state = 'pending' AND deadline_ms IS NOT NULL;
CREATE INDEX awakeables_pending ON awakeables.awakeables (id) WHERE state = 'pending';
CREATE INDEX awakeables_waited ON awakeables.awakeables (invocation_id, id) WHERE state = 'pending';

CREATE TABLE awakeables.schemas (
    hash  text COLLATE "C" PRIMARY KEY,
    body  bytea NOT NULL
);

CREATE TABLE awakeables.outbox (
    event_id    text COLLATE "C" PRIMARY KEY,
    stream      text COLLATE "C" NOT NULL,
    claimed_by  text COLLATE "C" NOT NULL,
    state       text NOT NULL,
    created_ms  bigint NOT NULL,
    topic       text NOT NULL,
    reason      bytea,
    facts       bytea,
    headers     bytea,
    key         bytea,
    value       bytea,
    acted_by    bytea,
    position    bigint NOT NULL,
    kind        text NOT NULL
);

CREATE INDEX outbox_claimed ON awakeables.outbox (claimed_by, event_id) WHERE state = 'unsent';
CREATE INDEX outbox_stream ON awakeables.outbox (stream, position, event_id) WHERE state = 'unsent';
CREATE INDEX outbox_failed ON awakeables.outbox (event_id) WHERE state = 'failed';

CREATE TABLE awakeables.dead_letters (
    id            text COLLATE "C" PRIMARY KEY,
    source        text COLLATE "C" NOT NULL UNIQUE,
    topic         text NOT NULL,
    partition     bigint NOT NULL,
    "offset"      bigint NOT NULL,
    timestamp_ms  bigint NOT NULL,
    code          text COLLATE "C" NOT NULL,
    reason        bytea NOT NULL,
    at_ms         bigint NOT NULL,
    awakeable_id  bytea,
    headers       bytea,
    key           bytea,
    value         bytea,
    resent        bigint NOT NULL,
    acted_by      bytea,
    last_offset   bigint,
    count         bigint NOT NULL
);

CREATE INDEX dead_letters_code ON awakeables.dead_letters (code, id);

CREATE TABLE awakeables.offsets (
    subscription  text COLLATE "C" NOT NULL DEFAULT '',  -- '': the completions topic
    topic         text COLLATE "C" NOT NULL,
    partition     bigint NOT NULL,
    next          bigint NOT NULL,
    epoch         bigint NOT NULL,
    owner         text COLLATE "C",
    again_before  bigint NOT NULL,
    fresh_ms      bigint,  -- up to this instant everything was read
    topic_id      text,    -- the topic that the positions are of, by Kafka's ID
    PRIMARY KEY (subscription, topic, partition)
) WITH (fillfactor = 10);  -- few rows, updated with each batch: each page has room for new versions

CREATE TABLE awakeables.idempotency (
    scope          bytea NOT NULL,
    key            bytea NOT NULL,
    fingerprint    text NOT NULL,
    invocation_id  text COLLATE "C" NOT NULL,
    PRIMARY KEY (scope, key)
);

CREATE INDEX idempotency_invocation ON awakeables.idempotency (invocation_id);

CREATE TABLE awakeables.topics (
    topic       text COLLATE "C" PRIMARY KEY,
    partitions  bigint NOT NULL,  -- only grows
    topic_id    text,
    cluster_id  text
);

CREATE TABLE awakeables.instances (
    id                text COLLATE "C" PRIMARY KEY,
    app               text NOT NULL,
    host              text NOT NULL,   -- for people
    build             text NOT NULL,
    build_started_ms  bigint NOT NULL,
    level             bigint NOT NULL,  -- what the build understands
    handlers          text[] NOT NULL,
    started_ms        bigint NOT NULL,
    beat_ms           bigint NOT NULL,
    state             text NOT NULL     -- alive, leaving or dead
) WITH (fillfactor = 10);

-- The defaults wait until a fifth of a table is dead, which slows down every search meanwhile.
ALTER TABLE awakeables.invocations SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE awakeables.awakeables SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE awakeables.outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE awakeables.journal SET (autovacuum_vacuum_insert_scale_factor = 0.05);

INSERT INTO awakeables.meta (version, served_from, created_ms)
VALUES (1, 1, extract(epoch FROM clock_timestamp()) * 1000);
