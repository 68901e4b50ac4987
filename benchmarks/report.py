"""What a run has shown, as the tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Section = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Aim:
    """What was to be reached; `at_most`: less is better."""

    what: str
    bound: float
    unit: str
    found: float
    at_most: bool = False

    def line(self) -> tuple[str, ...]:
        met = self.found <= self.bound if self.at_most else self.found >= self.bound
        sign = "≤" if self.at_most else "≥"
        return (
            self.what,
            f"{sign} {self.bound:g} {self.unit}",
            f"{self.found:.2f}",
            "met" if met else "missed",
        )


def tables(report: Section) -> str:
    """All tables, in the order of the page."""
    judged = [aim.line() for aim in aims(report)]
    parts = [_table(("", "aim", "this run", ""), judged)] if judged else []
    titles = {
        "cycles": "A callback cycle, answered over Kafka",
        "http": "A callback cycle, answered over HTTP",
        "calls": "A call of one handler by another, beside the cycle",
        "functions": "A callback cycle in a function, beside one in the service",
        "object": "A call of an object, of one key, beside the cycle",
        "objects": "The same, of 10,000 keys",
        "backlog": "A backlog",
        "subscription": "A subscription",
        "timers": "Timers that are due",
        "attempts": "Attempts by themselves",
        "pending": "A million waiting",
        "restate": "Compared with Restate",
        "postgres": "PostgreSQL beside SQLite",
        "beside": "Compared with another checkout",
    }
    for section, title in titles.items():
        found = report.get(section)
        if found is not None:
            parts.append(f"### {title}")
            parts.extend([found["skipped"]] if "skipped" in found else DRAWN[section](found))
    parts.append(f"`{report['command']}`: {report['machine']}.")
    return "\n\n".join(parts)


BESIDE_FLOOR = {64: 0.35, 256: 0.5}
BESIDE_RESTATE = {64: 4.5, 256: 5.0}
"""The least ratios that are aimed at, by the calls in flight."""


def aims(report: Section) -> list[Aim]:
    """What the run was to show, and has."""
    found: list[Aim] = []
    for section, way in (("cycles", "Kafka"), ("http", "HTTP")):
        for row in _rows(report, section):
            what = f"{row['in_flight']} in flight, answer over {way}"
            if row["in_flight"] == 1:
                found.append(Aim(f"p50, {what}", 2, "× the floor", row["ratio_p50"], at_most=True))
                found.append(Aim(f"p99, {what}", 2, "× the floor", row["ratio_p99"], at_most=True))
            else:
                least = BESIDE_FLOOR.get(row["in_flight"], 0.35)
                found.append(Aim(f"cycles/s, {what}", least, "× the floor", row["ratio_per_second"]))
    if "backlog" in report:
        ratio = report["backlog"]["ratio"]
        found.append(Aim("completions persisted/s from a backlog", 0.1, "× bare `getmany`", ratio))
    if "attempts" in report:
        many = f"`gather` of {report['attempts']['many']:,} awakeables, each"
        found.append(Aim(many, 5, "µs", report["attempts"]["many_us"], at_most=True))
    if "pending" in report:
        pending = report["pending"]
        many = f"{pending['count']:,} pending"
        found.append(Aim(f"memory with {many}", 250, "MB", pending["peak_mb"], at_most=True))
        found.append(Aim(f"start to ready with {many}", 2, "s", pending["start_s"], at_most=True))
        for row in pending["rows"]:
            what = f"cycles/s with {many}, {row['in_flight']} in flight"
            found.append(Aim(what, 0.8, "× with 1,000", row["ratio_per_second"]))
    if "cycles" in report.get("postgres", {}):
        found.extend(_postgres_aims(report["postgres"]))
    for row in _rows(report, "restate"):
        what = f"{row['in_flight']} in flight beside Restate"
        if row["in_flight"] == 1:
            found.append(Aim(f"p50, {what}", 0.5, "× Restate's", row["ratio_p50"], at_most=True))
        else:
            least = BESIDE_RESTATE.get(row["in_flight"], 4.5)
            found.append(Aim(f"cycles/s, {what}", least, "× Restate's", row["ratio_per_second"]))
    return found


def _postgres_aims(found: Section) -> Iterable[Aim]:
    for row in found["cycles"][0]["rows"]:
        if row["in_flight"] == 64:
            what = "cycles/s on PostgreSQL, 64 in flight"
            yield Aim(what, 0.6, "× SQLite's", row["ratio_per_second"])
    persisted, empty = found["rows"]["persisted"], found["rows"]["empty"]
    yield Aim("persisted/s on PostgreSQL", 0.6, "× hand-made SQL", persisted["ratio_hand"])
    yield Aim("persisted/s on PostgreSQL", 0.25, "× a bare update", persisted["ratio_bare"])
    many = f"{found['rows']['many']:,} pending"
    yield Aim(f"empty claim with {many}", 2, "ms", empty["fresh"]["claim"], at_most=True)
    yield Aim("the same under an old snapshot", 2, "ms", empty["held"]["claim"], at_most=True)
    yield Aim("take-over after kill -9", 11, "s", found["take_over_s"], at_most=True)


def _rows(report: Section, section: str) -> list[Section]:
    rows: list[Section] = report.get(section, {}).get("rows", [])
    return rows


# ── one section each ────────────────────────────────────────────────────────────────────────


def _compared(found: Section) -> Iterable[str]:
    lines = []
    for row in found["rows"]:
        for what, side in ((found["base"], row["base"]), (found["ours"], row["ours"])):
            numbers = (f"{side['per_second']:,.0f}", f"{side['p50_ms']:.2f}", f"{side['p99_ms']:.2f}")
            processors = (f"{side['server_cpu_us']:,.0f}", f"{side['worker_cpu_us']:,.0f}")
            lines.append((str(row["in_flight"]), what, *numbers, *processors))
    yield _table(
        ("in flight", "", "cycles/s", "p50 ms", "p99 ms", "server's CPU, µs per cycle", "worker's"), lines
    )
    if "kept" in found:
        yield (
            f"Worker: {found['worker']}. {found['kept']:,} invocations are in the store, "
            f"{found['answered']:,} were answered."
        )


def _functions(found: Section) -> Iterable[str]:
    yield from _compared(found)
    yield f"The function's processor time: {found['function_us']:,.0f} µs per cycle that went through it."


def _backlog(found: Section) -> Iterable[str]:
    yield _table(
        (f"{found['count']:,} completions", "per second"),
        [
            ("bare `getmany`", f"{found['getmany_per_second']:,.0f}"),
            ("persisted, with verdicts, wake-ups and offsets", f"{found['persisted_per_second']:,.0f}"),
            ("suspended invocations finished", f"{found['finished_per_second']:,.0f}"),
        ],
    )
    yield (
        f"Ready {found['ready_s']:.2f} s after the start of the process, all finished after "
        f"{found['all_s']:.1f} s; at most {found['peak_memory_mb']:.0f} MB."
    )


def _subscription(found: Section) -> Iterable[str]:
    limited, unlimited = found["rows"]
    columns = [
        ("records that have begun an invocation, per second", "begun_per_second", ",.0f"),
        ("invocations finished, per second", "finished_per_second", ",.0f"),
        ("begun, × bare `getmany`", "ratio_getmany", ".3f"),
        ("finished, × the callback cycle", "ratio_cycle", ".2f"),
        ("server's CPU, µs per record", "server_cpu_us", ",.0f"),
        ("memory, the maximum, MB", "peak_memory_mb", ",.0f"),
    ]
    yield _table(
        (
            f"{found['count']:,} records, {found['partitions']} partitions",
            "`max_open` 10,000",
            "without limit",
        ),
        [(what, *(f"{row[name]:{how}}" for row in (limited, unlimited))) for what, name, how in columns],
    )
    yield (
        f"In the same run a bare `getmany` read {found['getmany_per_second']:,.0f} records/s, and the cycle "
        f"ran {found['cycles_per_second']:,.0f} times a second, {found['in_flight']} in flight."
    )


def _timers(found: Section) -> Iterable[str]:
    yield _table(
        (f"{found['count']:,} timers, due when the service starts", ""),
        [
            ("handlers replayed and ended, per second", f"{found['per_second']:,.0f}"),
            (
                f"the same, × the callback cycle, {found['in_flight']} in flight",
                f"{found['ratio_cycle']:.2f}",
            ),
            ("server's CPU, µs each", f"{found['server_cpu_us']:,.0f}"),
        ],
    )
    yield f"In the same run the cycle ran {found['cycles_per_second']:,.0f} times a second."


def _attempts(found: Section) -> Iterable[str]:
    yield _table(
        ("without a store", ""),
        [
            (f"`gather` of {found['many']:,} awakeables, µs for each", f"{found['many_us']:.2f}"),
            (f"of {found['few']:,}", f"{found['few_us']:.2f}"),
            (f"replay of a journal of {found['entries']:,} entries, ms", f"{found['replay_ms']:.2f}"),
            ("the attempt of a callback cycle, µs", f"{found['cycle_us']:.0f}"),
            ("a part of the large `gather`, × that", f"{found['many_us'] / found['cycle_us']:.3f}"),
            (
                "an entry that is replayed, × that",
                f"{found['replay_ms'] * 1000 / found['entries'] / found['cycle_us']:.3f}",
            ),
        ],
    )
    yield f"The outcomes come in batches of {found['at_once']:,}."


def _pending(found: Section) -> Iterable[str]:
    yield _table(
        (f"{found['count']:,} pending", ""),
        [
            ("start of the process to ready, file in memory", f"{found['start_s']:.2f} s"),
            ("the same, file on the disk only", f"{found['cold_start_s']:.2f} s"),
            ("memory when ready", f"{found['ready_mb']:.0f} MB"),
            (
                "memory after the load, and the maximum",
                f"{found['loaded_mb']:.0f}, {found['peak_mb']:.0f} MB",
            ),
            ("the file", f"{found['store_mb']:,.0f} MB"),
        ],
    )
    yield from _compared(found)


def _postgres(found: Section) -> Iterable[str]:
    for each in found["cycles"]:
        yield from _compared(each)
    rows = found["rows"]
    persisted, fresh, held = rows["persisted"], rows["empty"]["fresh"], rows["empty"]["held"]
    yield _table(
        (f"completions persisted, {rows['group']:,} in a commit", "per second"),
        [
            ("an update of the awakeable and of the offset", f"{persisted['bare']:,.0f}"),
            ("hand-made: with verdict and wake-up, one statement", f"{persisted['hand']:,.0f}"),
            ("ours", f"{persisted['ours']:,.0f}"),
        ],
    )
    yield _table(
        (f"{rows['many']:,} pending", ""),
        [
            ("a claim, and an expiry, that find nothing", f"{fresh['claim']:.2f}, {fresh['expire']:.2f} ms"),
            (
                f"the same after {rows['moved']:,} wake-ups under an old snapshot",
                f"{held['claim']:.2f}, {held['expire']:.2f} ms",
            ),
            ("start of the process to ready", f"{found['pending']['start_s']:.2f} s"),
            ("memory, the maximum", f"{found['pending']['peak_mb']:.0f} MB"),
            ("take-over after `kill -9`, time-out 10 s", f"{found['take_over_s']:.1f} s"),
        ],
    )
    yield from _compared(found["pending"])


DRAWN = {
    "cycles": _compared,
    "http": _compared,
    "calls": _compared,
    "functions": _functions,
    "object": _compared,
    "objects": _compared,
    "backlog": _backlog,
    "subscription": _subscription,
    "timers": _timers,
    "attempts": _attempts,
    "pending": _pending,
    "restate": _compared,
    "postgres": _postgres,
    "beside": _compared,
}


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    drawn = ["| " + " | ".join(line) + " |" for line in (head, *lines)]
    return "\n".join([drawn[0], "|---" * len(head) + "|", *drawn[1:]])
