"""PostgreSQL: the cycle with one instance and with two, beside SQLite; take-over; a million pending."""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time
from typing import Any

import asyncpg

from benchmarks import postgres_rows, wrk
from benchmarks.pairs import PATH, Entrant, Plan, compare, warm_up
from benchmarks.processes import Failed, wait_until_ready
from benchmarks.stage import Ground, staged
from benchmarks.storage import NewDatabase, databases

TAKE_OVERS = 3
TIMEOUT_S = 10.0
"""AWAKEABLES_INSTANCE_TIMEOUT, as it is by default."""


def measure(ground: Ground, plan: Plan, *, pending: int) -> dict[str, Any]:
    """Drive one instance on SQLite, then on PostgreSQL; and one of two that share PostgreSQL.

    The second instance reads half of the partitions and runs what it is woken for, on the same cores; its
    CPU counts. That of PostgreSQL's server does not: it is a machine of its own where that matters.

    Raises:
        Failed: A process ended.
    """
    with databases() as url:
        if url is None:
            return {"skipped": "There is no PostgreSQL here: Debian's package `postgresql` has it."}
        with url() as database:
            rows = asyncio.run(postgres_rows.measure(database, many=pending))
            waiting = _beside_few(ground, url, database, plan, pending)
        return {
            "cycles": _cycles(ground, url, plan),
            "rows": rows,
            "pending": waiting,
            "take_over_s": statistics.median(_take_over_s(ground, url) for _ in range(TAKE_OVERS)),
        }


def _cycles(ground: Ground, url: NewDatabase, plan: Plan) -> list[dict[str, Any]]:
    found = []
    for count in (1, 2):
        with staged(ground) as files, staged(ground) as shared, url() as database:
            base = Entrant("SQLite", files.serve(files.folder / "bench.db"), files.plain_worker())
            first, *others = [shared.serve(database) for _ in range(count)]
            what = f"PostgreSQL, {count} instance{'s' if count > 1 else ''}"
            helpers = tuple(each.process for each in others)
            ours = Entrant(what, first, shared.plain_worker(), helpers=helpers)
            found.append(compare(base, ours, plan))
    return found


def _beside_few(ground: Ground, url: NewDatabase, many: str, plan: Plan, count: int) -> dict[str, Any]:
    """The cycle on a database with so many pending invocations beside one on an empty database."""
    with staged(ground) as full, staged(ground) as empty, url() as few:
        began_s = time.perf_counter()
        server = full.serve(many)
        wait_until_ready(server.process, server.port)
        start_s = time.perf_counter() - began_s
        ours = Entrant(f"{count:,} pending", server, full.plain_worker())
        base = Entrant("none pending", empty.serve(few), empty.plain_worker())
        busy = Plan(in_flight=[64], seconds=plan.seconds, rounds=plan.rounds)
        found = compare(base, ours, busy)
        return found | {"start_s": start_s, "peak_mb": server.process.peak_memory_mb()}


def _take_over_s(ground: Ground, url: NewDatabase) -> float:
    """From `kill -9` of an instance that runs calls until the other one has the last of them."""
    with staged(ground) as stage, url() as database:
        one, other = stage.serve(database), stage.serve(database)
        for server in (one, other):
            wait_until_ready(server.process, server.port)
        warm_up(Entrant("the one that dies", one, worker := stage.plain_worker()), 64)
        worker.stop()
        # Nobody answers any more, so each call is owned until its handler has waited for a second.
        load = threading.Thread(
            target=wrk.drive, args=(one.url + PATH,), kwargs={"in_flight": 64, "seconds": 5}, daemon=True
        )
        load.start()
        time.sleep(0.5)
        return asyncio.run(_killed(database, one.process.pid))


async def _killed(database: str, pid: int) -> float:
    connection = await asyncpg.connect(database)
    try:
        counts = "SELECT owner, count(*) FROM awakeables.invocations WHERE owner IS NOT NULL GROUP BY owner"
        os.kill(pid, 9)
        began_s = time.perf_counter()
        owned = {owner: count for owner, count in await connection.fetch(counts)}
        dead = max(owned, key=lambda owner: owned[owner])
        while time.perf_counter() - began_s < 10 * TIMEOUT_S:
            if not any(owner == dead for owner, _ in await connection.fetch(counts)):
                return time.perf_counter() - began_s
            await asyncio.sleep(0.02)
        raise Failed(f"{owned[dead]} calls of a dead instance were not taken over")
    finally:
        await connection.close()
