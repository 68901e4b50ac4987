-- quick_check --
PRAGMA quick_check(1)

-- newest_row --
SELECT created_ms FROM invocations WHERE id = (SELECT max(id) FROM invocations)

-- back_up --
VACUUM INTO ?
