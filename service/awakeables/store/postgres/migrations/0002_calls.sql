-- Which invocations others wait for. A release that does not know calls would end one without telling its
-- caller, so it can't serve this schema.

ALTER TABLE awakeables.invocations ADD COLUMN awaited boolean NOT NULL DEFAULT false;

CREATE INDEX awakeables_source ON awakeables.awakeables (source) WHERE state = 'pending' AND source IS NOT NULL;

DROP INDEX awakeables.awakeables_pending;
CREATE INDEX awakeables_pending ON awakeables.awakeables (id) WHERE state = 'pending' AND source IS NULL;

UPDATE awakeables.meta SET version = 2, served_from = 2;
