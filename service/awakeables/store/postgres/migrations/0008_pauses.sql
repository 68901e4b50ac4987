-- Handlers and services of which nothing is claimed until they are resumed. A release that does not know them can serve
-- beside one that does: it claims their invocations.

CREATE TABLE awakeables.pauses (
    target    text COLLATE "C" NOT NULL PRIMARY KEY,
    since_ms  bigint NOT NULL,
    by        text
);

UPDATE awakeables.meta SET version = 8;
