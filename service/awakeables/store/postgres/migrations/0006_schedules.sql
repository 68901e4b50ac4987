-- Schedules: the next tick of each, and what the last one has begun. A release that does not know them begins none,
-- and can serve beside one that does.

CREATE TABLE awakeables.schedules (
    name             text COLLATE "C" NOT NULL PRIMARY KEY,
    service          text COLLATE "C" NOT NULL,
    handler          text COLLATE "C" NOT NULL,
    spec             bytea NOT NULL,
    since_ms         bigint NOT NULL,
    next_ms          bigint NOT NULL,
    paused_ms        bigint,
    last_invocation  text COLLATE "C",
    queued_ms        bigint
) WITH (fillfactor = 50);

UPDATE awakeables.meta SET version = 6;
