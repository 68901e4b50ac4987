"""How PostgreSQL runs our statements: by indexes, whatever it believed of the tables when it planned."""

from __future__ import annotations

import re

import asyncpg
import pytest

from awakeables.core.rows import TableName
from awakeables.store.postgres import loading, writing
from awakeables.store.postgres.queries import QUERIES

pytestmark = pytest.mark.real_postgres

UNPLANNED = {
    # Sizes of one or a few rows, or parts of other statements.
    *(
        "writer",
        "reader",
        "migrator",
        "auditor",
        "beater",
        "limits",
        "migrator_limits",
        "server",
        "process",
        "unset",
        "has_meta",
        "has_schema",
        "meta",
        "name_app",
        "try_lock",
        "clock",
    ),
    *(
        "register",
        "beat",
        "declare_dead",
        "leave",
        "gone",
        "instances",
        "for_me",
        "listed",
        "new_rev",
        "now_ms",
    ),
    *("follows", "check", "answer", "answer_wakes"),
    "count_rows",  # a count visits what it counts
}

ROWS = """
INSERT INTO awakeables.invocations (
    id, service, handler, created_ms, updated_ms, status, owner, epoch, version, wake, starts, attempts,
    due_ms, result, ended_ms, commits, rev)
SELECT 'inv_' || n, 's', 'h', n, n,
    (ARRAY['running', 'suspended', 'completed'])[n % 3 + 1],
    CASE n % 3 WHEN 0 THEN 'own_' || n % 5 END, 1, 1, 0, 1, 0, CASE n % 7 WHEN 0 THEN n END,
    CASE n % 3 WHEN 2 THEN '\\x00'::bytea END, CASE n % 3 WHEN 2 THEN n END, 0, n
FROM generate_series(1, 20000) AS n;
INSERT INTO awakeables.awakeables (id, invocation_id, created_ms, codec, deadline_ms, state, rev)
SELECT 'prom_' || n, 'inv_' || n, n, 'json', n, (ARRAY['pending', 'resolved'])[n % 2 + 1], n
FROM generate_series(1, 20000) AS n;
INSERT INTO awakeables.outbox (event_id, stream, claimed_by, state, created_ms, topic, position, kind)
SELECT 'evt_' || n, 'inv_' || n / 3, 'own_' || n % 5, (ARRAY['unsent', 'failed'])[n % 2 + 1], n, 't',
    n, 'event'
FROM generate_series(1, 20000) AS n;
INSERT INTO awakeables.journal SELECT 'inv_' || n, 1, '\\x00', n FROM generate_series(1, 20000) AS n;
INSERT INTO awakeables.idempotency SELECT n::text::bytea, n::text::bytea, 'f', 'inv_' || n
FROM generate_series(1, 20000) AS n;
INSERT INTO awakeables.dead_letters (
    id, source, topic, partition, "offset", timestamp_ms, code, reason, at_ms, resent, count)
SELECT 'dlq_' || n, 't:0:' || n, 't', 0, n, n, 'unreadable', '\\x00', n, 0, 1
FROM generate_series(1, 20000) AS n;
ANALYZE
"""

SUBSCRIBED = """
UPDATE awakeables.invocations SET subscription = 'orders.' || created_ms % 50 WHERE created_ms % 5 > 0;
ANALYZE
"""

TABLES: tuple[TableName, ...] = (
    "invocations",
    "awakeables",
    "effects",
    "dead_letters",
    "sources",
    "keys",
    "positions",
)


LOOKS_AT_ALL = {"awakeables_of"}
"""For what can't be read otherwise: of invocations whose journals can't be opened."""


def statements() -> dict[str, str]:
    """Every statement with its name: those of readers and searches, a load and writes of every kind."""
    fragments = {*writing.KINDS, *(name for name in QUERIES if name.startswith("load_"))}
    fragments |= {name for name in QUERIES if name.endswith("_columns")}
    found = {name: text for name, text in QUERIES.items() if name not in fragments | UNPLANNED}
    found |= {f"load {table}": loading._statement((table,)) for table in TABLES}
    found["load everything"] = loading._statement(TABLES)
    found |= {kind: writing._statement((kind,)) for kind in writing.KINDS if not kind.startswith("hold")}
    found["write everything"] = writing._statement(writing.KINDS)
    return found


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "analysed"])
async def test_pg20_every_statement_goes_by_indexes(postgres_url: str, filled: bool) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(QUERIES["writer"])
        await connection.execute("SET plan_cache_mode = force_generic_plan; SET statement_timeout = '60s'")
        if filled:
            await connection.execute(ROWS)
        scans = {}
        for number, (name, text) in enumerate(sorted(statements().items())):
            count = max((int(n) for n in re.findall(r"\$(\d+)", text)), default=0)
            await connection.execute(f"PREPARE s{number} AS {text}")
            given = f"({', '.join(['NULL'] * count)})" if count else ""
            plan = await connection.fetch(f"EXPLAIN EXECUTE s{number}{given}")
            lines = [line for (line,) in plan if "Seq Scan on" in line and "on meta" not in line]
            lines = [line for line in lines if "Seq Scan on instances" not in line]
            if lines:
                scans[name] = lines
        assert scans.keys() <= LOOKS_AT_ALL
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("due_invocations", "invocations_due"),
        ("due_suspects", "invocations_suspect"),
        ("overdue_awakeables", "awakeables_deadline"),
    ],
)
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "analysed"])
async def test_pg20_a_search_has_one_index_to_go_by(
    postgres_url: str, name: str, index: str, filled: bool
) -> None:
    """Two indexes that seem to be empty seem to cost the same, and one of them is visited as a whole."""
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(QUERIES["writer"])
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        if filled:
            await connection.execute(ROWS)
        await connection.execute(f"PREPARE search AS {QUERIES[name]}")
        count = max(int(n) for n in re.findall(r"\$(\d+)", QUERIES[name]))
        explain = f"EXPLAIN EXECUTE search({', '.join(['NULL'] * count)})"
        dropping = connection.transaction()
        await dropping.start()
        for dropped in (False, True):
            if dropped:
                await connection.execute(f"DROP INDEX awakeables.{index}")
            plan = "\n".join(line for (line,) in await connection.fetch(explain))
            assert ("Seq Scan on" in plan) is dropped, plan
        await dropping.rollback()
    finally:
        await connection.close()


IN_ORDER = {
    "list_invocations": "invocations_pkey",
    "list_open": "invocations_open",
    "list_paused": "invocations_paused",
}
"""Lists that are read in the order of the IDs, until the page is full."""

FEW = {"list_running": "invocations_owned", "list_subscribed": "invocations_subscribed"}
"""Lists of a few rows, which are all visited; those of the page are read by their IDs."""

FILTERS = (
    "NULL, NULL, NULL, NULL",
    "NULL, NULL, 'orders.7', NULL",
    "'nobodys', 'nobodys', 'orders.7', 'pending'",
)
"""Without a subscription the list of one is not asked for."""


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_pg20_a_list_is_read_by_the_index_of_its_rows(postgres_url: str, mode: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(QUERIES["writer"])
        await connection.execute(f"SET plan_cache_mode = {mode}")
        for number, filling in enumerate((None, ROWS, SUBSCRIBED)):
            if filling is not None:
                await connection.execute(filling)
            for name, index in (IN_ORDER | FEW).items():
                await connection.execute(f"PREPARE {name}_{number} AS {QUERIES[name]}")
                for names in FILTERS[name in FEW :]:
                    explain = f"EXPLAIN EXECUTE {name}_{number}('z', {names}, 50)"
                    plan = "\n".join(line for (line,) in await connection.fetch(explain))
                    indexes = re.findall(r"(?:using|Bitmap Index Scan on) (\w+)", plan)
                    assert indexes == ([index] if name in IN_ORDER else [index, "invocations_pkey"]), plan
                    assert ("Sort" in plan) is (name in FEW), plan
    finally:
        await connection.close()
