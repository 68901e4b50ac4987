"""Half of what it can, for long: memory, backlog and files must not grow.

`wrk` drives in slices, its connections rest between requests so that the wanted rate comes out.
After each slice one look at the service. Retention is short, so that what has ended is forgotten
and the file must find its size. What counts is the last third of the run against the one before.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks import disk, wrk
from benchmarks.looks import Look, look
from benchmarks.pairs import PATH, Entrant, warm_up
from benchmarks.stage import Ground, Stage, staged
from benchmarks.storage import Database, File, Storage, databases

Rate = float | Literal["half"]

PEAK_S = 20
"""How long it is driven as hard as it goes, to learn what half of it is."""

RETENTION_SHARE = 15
"""Retention is this part of the run: the first third sees the file find its size."""

BOUNDS = {
    "memory_mb": 4.0,
    "file_mb": 8.0,
    "log_mb": 8.0,
    "dead_rows": 5000.0,
    "pending": 100.0,
    "unsent": 100.0,
    "lag": 100.0,
}
"""By how much more than a twentieth the median of the last third may lie above that of the second."""

TITLES = {
    "per_second": "cycles/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "memory_mb": "memory MB",
    "file_mb": "file MB",
    "log_mb": "log (WAL) MB",
    "dead_rows": "dead row versions",
    "pending": "awakeables pending",
    "unsent": "outbox unsent",
    "lag": "completions unread",
    "stalls": "stalls of the loop in a slice",
}


class Grown(Exception):
    """What must stay flat has grown; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How it is driven.

    Attributes:
        rate: Cycles a second.
        in_flight: Connections.
        slice_s: Between two looks.
        instances: One with a SQLite file; several share a database of PostgreSQL, and take turns with the
            slices.
    """

    minutes: float
    rate: Rate
    in_flight: int
    slice_s: int
    instances: int


def rate(text: str) -> Rate:
    """As the flag is written."""
    return "half" if text == "half" else float(text)


def measure(ground: Ground, plan: Plan) -> dict[str, Any]:
    """Drive and look, until the time is over.

    Raises:
        disk.Broken: Not every call was answered, or what the store has kept is not all values.
        Failed: A process ended.
    """
    retention_s = plan.minutes * 60 / RETENTION_SHARE
    with staged(ground) as stage, _storage(stage, plan.instances) as storage:
        settings = {
            "AWAKEABLES_RETENTION": f"{retention_s * 1000:.0f}ms",
            "AWAKEABLES_PURGE_INTERVAL": f"{max(retention_s / 12, 0.1) * 1000:.0f}ms",
        }
        worker = stage.plain_worker()
        entrants = [
            Entrant(f"instance {number}", stage.serve(storage.at, settings), worker)
            for number in range(plan.instances)
        ]
        for entrant in entrants:
            warm_up(entrant, plan.in_flight)
        url = entrants[0].server.url + PATH
        peak = wrk.drive(url, in_flight=plan.in_flight, seconds=PEAK_S).per_second
        wanted = peak / 2 if plan.rate == "half" else plan.rate
        looks = _drive(entrants, storage, plan, wanted)
        kept = storage.audit()
    return {
        "peak_per_second": peak,
        "wanted_per_second": wanted,
        "retention_s": retention_s,
        "kept": kept,
        "thirds": summary(looks),
        "looks": [asdict(one) for one in looks],
    }


@contextmanager
def _storage(stage: Stage, instances: int) -> Iterator[Storage]:
    if instances == 1:
        yield File(stage.folder / "bench.db")
        return
    with databases() as new:
        if new is None:
            raise disk.Broken("several instances need PostgreSQL: Debian's package `postgresql` has it")
        with new() as url:
            yield Database(url)


def _drive(entrants: Sequence[Entrant], storage: Storage, plan: Plan, wanted: float) -> list[Look]:
    looks: list[Look] = []
    began = time.monotonic()
    pause_ms = plan.in_flight / wanted * 1000
    while (at_s := time.monotonic() - began) < plan.minutes * 60:
        url = entrants[len(looks) % len(entrants)].server.url + PATH
        measured = wrk.drive(url, in_flight=plan.in_flight, seconds=plan.slice_s, pause_ms=pause_ms)
        for entrant in entrants:
            entrant.check()
        if measured.refused or measured.broken:
            raise disk.Broken(f"{measured.refused} answers above 399, {measured.broken} broken connections")
        servers, before = [entrant.server for entrant in entrants], looks[-1] if looks else None
        looks.append(look(servers, storage.sizes(), measured, at_s=at_s, before=before))
        # Half of the way to the pause that this slice would have needed.
        needed_ms = pause_ms + plan.in_flight * 1000 * (1 / wanted - 1 / max(measured.per_second, 1.0))
        pause_ms = max(0.0, (pause_ms + needed_ms) / 2)
        if len(looks) % 6 == 0:
            print(f"{at_s / 60:.1f} min: {looks[-1]}", file=sys.stderr, flush=True)
    return looks


# ── what it has shown ───────────────────────────────────────────────────────────────────────


def summary(looks: Sequence[Look]) -> dict[str, Any]:
    """By figure: least, median and most of each third, and the slope of the last two."""
    third = len(looks) // 3
    if not third:
        raise disk.Broken("the run was too short for three looks: more minutes, or shorter slices")
    thirds = (looks[:third], looks[third : 2 * third], looks[2 * third :])
    return {name: _of(name, thirds) for name in TITLES}


def _of(name: str, thirds: Sequence[Sequence[Look]]) -> dict[str, Any]:
    def of(looks: Sequence[Look]) -> list[float]:
        return [float(getattr(one, name)) for one in looks]

    later = [*thirds[1], *thirds[2]]
    slope = statistics.linear_regression([one.at_s / 3600 for one in later], of(later)).slope
    found = [{"min": min(of(t)), "median": statistics.median(of(t)), "max": max(of(t))} for t in thirds]
    return {"thirds": found, "slope_per_hour": slope}


def check(found: dict[str, Any]) -> None:
    """See that nothing has grown.

    Raises:
        Grown: Something has.
    """
    grown = []
    for name, slack in BOUNDS.items():
        _, second, last = (third["median"] for third in found["thirds"][name]["thirds"])
        if last > second * 1.05 + slack:
            grown.append(f"{TITLES[name]} from {second:,.1f} to {last:,.1f}")
    if grown:
        raise Grown("the last third of the run has more than the second: " + "; ".join(grown))


def tables(report: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    head = "| | first third | second | last | per hour |\n|---|---|---|---|---|"
    lines = []
    for name, title in TITLES.items():
        found = report["thirds"][name]
        cells = [f"{t['min']:,.1f} · **{t['median']:,.1f}** · {t['max']:,.1f}" for t in found["thirds"]]
        lines.append(f"| {title} | {' | '.join(cells)} | {found['slope_per_hour']:+,.1f} |")
    return "\n".join(
        [
            head,
            *lines,
            "",
            f"Least · **median** · most; the slope is that of the last two thirds. Peak "
            f"{report['peak_per_second']:,.0f} cycles/s, wanted {report['wanted_per_second']:,.0f}; "
            f"retention {report['retention_s']:,.0f} s; {report['kept']:,} ended invocations were left.",
            "",
            f"`{report['command']}`: {report['machine']}.",
        ]
    )
