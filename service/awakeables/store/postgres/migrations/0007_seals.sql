-- The keys by which values are sealed, each with a value that proves that it is the same key. A release that does not
-- know them can serve beside one that does, until the first key is added.

CREATE TABLE awakeables.seals (
    key_id  text COLLATE "C" NOT NULL PRIMARY KEY,
    probe   bytea NOT NULL
);

ALTER TABLE awakeables.instances ADD COLUMN key_id text;  -- what the instance seals with; NULL: it does not

UPDATE awakeables.meta SET version = 7;
