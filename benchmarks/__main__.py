"""`make bench`: how fast it is on a real Kafka, SQLite and PostgreSQL, beside what it is compared with.

What counts is the ratio within a run: machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from awakeables.errors import AwakeablesError
from benchmarks import (
    attempts,
    backlog,
    cycles,
    disk,
    machine,
    pending,
    postgres,
    restate,
    soak,
    subscription,
    timers,
    wrk,
)
from benchmarks.pairs import Plan
from benchmarks.processes import Failed
from benchmarks.report import tables
from benchmarks.stage import Ground

SECTIONS = (
    *(
        "cycles",
        "http",
        "calls",
        "functions",
        "object",
        "objects",
        "backlog",
        "subscription",
        "timers",
        "attempts",
    ),
    *("pending", "restate", "postgres"),
)
BESIDE = "beside"
MANY_KEYS = 10_000


def main() -> None:
    given = _arguments()
    try:
        wrk.find()
        with _kafka(given.bootstrap) as bootstrap, _folder(given.folder) as folder:
            disk.check_durability(folder)
            told = {"command": _command(), "machine": machine.described(folder)}
            given.run(given, Ground(bootstrap=bootstrap, folder=folder), told)
    except (
        wrk.Missing,
        Failed,
        disk.Broken,
        soak.Grown,
        AwakeablesError,
        subprocess.SubprocessError,
    ) as error:
        sys.exit(f"error: {error}")


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


def _bench(given: argparse.Namespace, ground: Ground, told: dict[str, Any]) -> None:
    many = [number for number in given.in_flight if number > 1] or given.in_flight
    plan = Plan(in_flight=given.in_flight, seconds=given.seconds, rounds=given.rounds)
    busy = Plan(in_flight=many, seconds=given.seconds, rounds=given.rounds)
    waiting = Plan(in_flight=[min(many)], seconds=given.seconds, rounds=given.rounds)
    fewer = Plan(in_flight=given.in_flight, seconds=given.seconds, rounds=min(given.rounds, 3))
    reading = Plan(in_flight=[min(many)], seconds=given.seconds, rounds=min(given.rounds, 3))
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "cycles": lambda: cycles.over_kafka(ground, plan, worker=given.worker),
        "http": lambda: cycles.over_http(ground, busy),
        "calls": lambda: cycles.calls(ground, plan),
        "functions": lambda: cycles.functions(ground, plan),
        "object": lambda: cycles.objects(ground, plan, keys=1),
        "objects": lambda: cycles.objects(ground, plan, keys=MANY_KEYS),
        "backlog": lambda: backlog.measure(ground, count=given.backlog, rounds=min(given.rounds, 3)),
        "subscription": lambda: subscription.measure(ground, reading, count=given.records),
        "timers": lambda: timers.measure(ground, reading, count=given.timers),
        "attempts": lambda: attempts.measure(ground),
        "pending": lambda: pending.measure(ground, waiting, count=given.pending),
        "restate": lambda: restate.measure(ground, fewer, installed=given.restate),
        "postgres": lambda: postgres.measure(ground, fewer, pending=given.pending),
    }
    if given.beside is not None:
        measures[BESIDE] = lambda: cycles.beside(ground, plan, checkout=given.beside)
    report = told
    try:
        for section in [*given.only, *([BESIDE] if given.beside is not None else [])]:
            print(f"{section} …", file=sys.stderr, flush=True)
            report = report | {section: measures[section]()}
    finally:
        # What was measured before a failure is worth its minutes.
        print(json.dumps(report, indent=2) if given.json else tables(report))


def _soak(given: argparse.Namespace, ground: Ground, told: dict[str, Any]) -> None:
    plan = soak.Plan(
        minutes=given.minutes,
        rate=given.rate,
        in_flight=given.in_flight,
        slice_s=given.slice,
        instances=given.instances,
    )
    found = soak.measure(ground, plan)
    print(json.dumps(told | found, indent=2) if given.json else soak.tables(told | found))
    soak.check(found)


def _arguments() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument(
        "--bootstrap",
        default=os.environ.get("KAFKA_BOOTSTRAP"),  # noqa: TID251 - a flag's default
        help="a Kafka that runs, HOST:PORT; KAFKA_BOOTSTRAP; without, one is started in a container",
    )
    common.add_argument(
        "--folder", type=Path, help="where the databases are made; no memory disk (a temporary one)"
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, parents=[common])
    parser.set_defaults(run=_bench)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="(all)")
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="CHECKOUT",
        help="also drive the service of another checkout, after `make install` there",
    )
    parser.add_argument("--seconds", type=int, default=3, help="how long one drive takes (3)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of drives per row: floor, ours (5)")
    parser.add_argument(
        "--in-flight", type=int, nargs="+", default=[1, 64, 256], metavar="N", help="(1 64 256)"
    )
    parser.add_argument("--backlog", type=int, default=200_000, metavar="N", help="(200000)")
    parser.add_argument("--records", type=int, default=50_000, metavar="N", help="(50000)")
    parser.add_argument("--timers", type=int, default=20_000, metavar="N", help="(20000)")
    parser.add_argument("--pending", type=int, default=1_000_000, metavar="N", help="(1000000)")
    parser.add_argument(
        "--worker",
        choices=("plain", "sdk"),
        default="plain",
        help="who answers over Kafka: the lightest client, or a worker of the SDK (plain)",
    )
    parser.add_argument(
        "--restate",
        type=Path,
        metavar="FOLDER",
        help="where Restate is, or is installed (a temporary folder)",
    )
    commands = parser.add_subparsers()
    soaking = commands.add_parser("soak", help="half of the peak for half an hour", parents=[common])
    soaking.set_defaults(run=_soak)
    soaking.add_argument("--minutes", type=float, default=30, help="(30)")
    soaking.add_argument(
        "--rate", type=soak.rate, default="half", help="cycles a second, or `half` of what it can (half)"
    )
    soaking.add_argument("--in-flight", type=int, default=64, metavar="N", help="(64)")
    soaking.add_argument(
        "--instances", type=int, default=1, metavar="N", help="several share a PostgreSQL (1, with SQLite)"
    )
    soaking.add_argument("--slice", type=int, default=10, metavar="SECONDS", help="between two looks (10)")
    return parser.parse_args()


@contextmanager
def _folder(parent: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as folder:
        yield Path(folder)


@contextmanager
def _kafka(bootstrap: str | None) -> Iterator[str]:
    if bootstrap is not None:
        yield bootstrap
        return
    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # as pytest has it
    try:
        from support.real_kafka import RealKafka, reason_real_kafka_is_missing
    except ImportError as error:
        raise wrk.Missing(
            f"no Kafka: set KAFKA_BOOTSTRAP, or run this from the checkout ({error})"
        ) from error
    reason = reason_real_kafka_is_missing()
    if reason is not None:
        raise wrk.Missing(f"no Kafka: set KAFKA_BOOTSTRAP to one that runs. Or start one here: {reason}")
    with RealKafka(short_lived=False) as kafka:
        yield kafka.bootstrap


if __name__ == "__main__":
    main()
