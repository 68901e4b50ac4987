"""`make bench`: callback cycles on a real Kafka and SQLite, beside the floor.

What counts is the ratio within a run: machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from awakeables.errors import AwakeablesError
from benchmarks import disk, wrk
from benchmarks.measure import Plan, measure
from benchmarks.processes import Failed
from benchmarks.report import table


def main() -> None:
    given = _arguments()
    plan = Plan(in_flight=given.in_flight, seconds=given.seconds, rounds=given.rounds, worker=given.worker)
    try:
        wrk.find()
        with _kafka(given.bootstrap) as bootstrap, _folder(given.folder) as folder:
            report = measure(bootstrap, folder, plan)
    except (wrk.Missing, Failed, disk.Broken, AwakeablesError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps(report, indent=2) if given.json else table(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="how long one drive takes (5)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of drives per row: floor, ours (5)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 64], metavar="N", help="(1 64)")
    parser.add_argument(
        "--worker",
        choices=("plain", "sdk"),
        default="plain",
        help="who answers both: the lightest Kafka client, or a worker of the SDK (plain)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--bootstrap",
        default=os.environ.get("KAFKA_BOOTSTRAP"),  # noqa: TID251 - a flag's default
        help="a Kafka that runs, HOST:PORT; KAFKA_BOOTSTRAP; without, one is started in a container",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the database is made; no memory disk (a temporary one)"
    )
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
    try:
        from tests.support.real_kafka import RealKafka, reason_real_kafka_is_missing
    except ImportError as error:
        raise wrk.Missing(
            f"no Kafka: set KAFKA_BOOTSTRAP, or run this from the checkout ({error})"
        ) from error
    reason = reason_real_kafka_is_missing()
    if reason is not None:
        raise wrk.Missing(f"no Kafka: set KAFKA_BOOTSTRAP to one that runs. Or start one here: {reason}")
    with RealKafka() as kafka:
        yield kafka.bootstrap


if __name__ == "__main__":
    main()
