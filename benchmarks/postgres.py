"""The callback cycle on PostgreSQL, with one instance and with two, beside SQLite."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.pairs import Entrant, Plan, compare
from benchmarks.stage import Ground, staged


def measure(ground: Ground, plan: Plan) -> dict[str, Any]:
    """Drive one instance on SQLite, then on PostgreSQL; and one of two that share PostgreSQL.

    The second instance reads half of the partitions and runs what it is woken for, on the same cores; its
    CPU counts. That of PostgreSQL's server does not: it is a machine of its own where that matters.

    Raises:
        Failed: A process ended.
    """
    with _postgres() as url:
        if url is None:
            return {"skipped": "There is no PostgreSQL here: Debian's package `postgresql` has it."}
        found: dict[str, Any] = {}
        for count in (1, 2):
            with staged(ground) as files, staged(ground) as shared, url() as database:
                base = Entrant("SQLite", files.serve(files.folder / "bench.db"), files.plain_worker())
                first, *others = [shared.serve(database) for _ in range(count)]
                what = f"PostgreSQL, {count} instance{'s' if count > 1 else ''}"
                helpers = tuple(each.process for each in others)
                ours = Entrant(what, first, shared.plain_worker(), helpers=helpers)
                found[str(count)] = compare(base, ours, plan)
    return found


@contextmanager
def _postgres() -> Iterator[Any]:
    """A function that makes a database, dropped after its block; None if no server can be started."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # as pytest has it
    try:
        from support.real_postgres import RealPostgres, reason_real_postgres_is_missing
    except ImportError:
        yield None
        return
    if reason_real_postgres_is_missing() is not None:
        yield None
        return
    server = RealPostgres.started(ends_with=os.getpid(), options=("fsync=on", "synchronous_commit=on"))
    try:
        yield lambda: server.database(migrated=False)
    finally:
        server.remove()
