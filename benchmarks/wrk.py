"""Driving a server with `wrk`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec

SCRIPT = Path(__file__).with_name("cycle.lua")
PATIENCE_S = 60


class Missing(Exception):
    """Something that the benchmark needs is not there; the message says what to do."""


class Measured(msgspec.Struct):
    """What `wrk` saw of one run.

    Attributes:
        refused: Answers with a status above 399.
        broken: Connections that could not be made, failed, or were too slow.
    """

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    refused: int
    broken: int

    @property
    def per_second(self) -> float:
        return self.requests / self.duration_us * 1e6


def find() -> str:
    """Where `wrk` is.

    Raises:
        Missing: Nowhere.
    """
    found = shutil.which("wrk")
    if found is None:
        raise Missing("wrk is not installed: apt-get install wrk, or brew install wrk")
    return found


def drive(url: str, *, in_flight: int, seconds: int, pause_ms: float | None = None) -> Measured:
    """POST to a URL for so long, with so many requests in flight.

    Args:
        url: Where.
        in_flight: Connections; each has one request at a time.
        seconds: How long.
        pause_ms: How long a connection rests before a request, on average; it is not part of what
            a request takes.

    Raises:
        subprocess.SubprocessError: `wrk` failed or hangs.
    """
    threads = 1 if in_flight == 1 else 2
    command = [find(), f"-t{threads}", f"-c{in_flight}", f"-d{seconds}s", "--timeout", "30s", "-s"]
    pause = [] if pause_ms is None else ["--", f"{pause_ms:.3f}"]
    ran = subprocess.run(
        [*command, str(SCRIPT), url, *pause],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + PATIENCE_S,
    )
    return msgspec.json.decode(ran.stdout.strip().splitlines()[-1], type=Measured)
