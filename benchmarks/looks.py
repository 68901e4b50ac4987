"""One look at a service under load, from outside: /proc, its files, its metrics."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import disk, wrk
from benchmarks.stage import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen.

    Attributes:
        at_s: Seconds since the first slice.
        file_mb: The database; `log_mb`: its write-ahead log.
        pending: Awakeables that wait.
        unsent: Records in the outbox.
        lag: Completions that are not settled.
        stalls: How often something held up the event loop since the look before.
        stalls_ever: The same, since the start.
    """

    at_s: float
    per_second: float
    p50_ms: float
    p99_ms: float
    memory_mb: float
    file_mb: float
    log_mb: float
    pending: float
    unsent: float
    lag: float
    stalls: float
    stalls_ever: float


def look(server: Server, store: Path, measured: wrk.Measured, *, at_s: float, before: Look | None) -> Look:
    """Look once, after a slice of load."""
    metrics = _metrics(server.url + "/metrics")
    stalls = metrics.get("awakeables_loop_stall_seconds_count", 0.0)
    return Look(
        at_s=at_s,
        per_second=measured.per_second,
        p50_ms=measured.p50_us / 1000,
        p99_ms=measured.p99_us / 1000,
        memory_mb=server.process.memory_mb(),
        file_mb=disk.size_mb(store),
        log_mb=disk.size_mb(store.with_name(store.name + "-wal")),
        pending=metrics["awakeables_pending"],
        unsent=metrics["awakeables_outbox_unsent"],
        lag=metrics.get("awakeables_consumer_lag", 0.0),
        stalls=stalls - (before.stalls_ever if before else 0.0),
        stalls_ever=stalls,
    )


def _metrics(url: str) -> dict[str, float]:
    """The sum of each metric over its labels."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums
