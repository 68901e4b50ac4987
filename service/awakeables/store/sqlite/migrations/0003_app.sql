-- Whose file it is: the first app that opens it. At most one row.

CREATE TABLE app (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    name  TEXT NOT NULL
);

PRAGMA user_version = 3;
