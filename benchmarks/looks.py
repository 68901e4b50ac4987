"""One look at instances under load, from outside: /proc, their store, their metrics."""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import wrk
from benchmarks.stage import Server
from benchmarks.storage import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen.

    Attributes:
        at_s: Seconds since the first slice.
        memory_mb: Of the instance that has most.
        file_mb: The database; `log_mb`: its write-ahead log.
        dead_rows: Versions of rows that PostgreSQL has not removed yet.
        pending: Awakeables that wait.
        unsent: Records in the outbox.
        lag: Completions that are not settled.
        stalls: How often something held up an event loop since the look before.
        stalls_ever: The same, since the start.
    """

    at_s: float
    per_second: float
    p50_ms: float
    p99_ms: float
    memory_mb: float
    file_mb: float
    log_mb: float
    dead_rows: float
    pending: float
    unsent: float
    lag: float
    stalls: float
    stalls_ever: float


def look(
    servers: Sequence[Server], sizes: Sizes, measured: wrk.Measured, *, at_s: float, before: Look | None
) -> Look:
    """Look once, after a slice of load."""
    metrics = [_metrics(server.url + "/metrics") for server in servers]
    stalls = sum(each.get("awakeables_loop_stall_seconds_count", 0.0) for each in metrics)
    return Look(
        at_s=at_s,
        per_second=measured.per_second,
        p50_ms=measured.p50_us / 1000,
        p99_ms=measured.p99_us / 1000,
        memory_mb=max(server.process.memory_mb() for server in servers),
        file_mb=sizes.file_mb,
        log_mb=sizes.log_mb,
        dead_rows=sizes.dead_rows,
        # Each instance tells of the whole store.
        pending=max(each["awakeables_pending"] for each in metrics),
        unsent=max(each["awakeables_outbox_unsent"] for each in metrics),
        lag=sum(each.get("awakeables_consumer_lag", 0.0) for each in metrics),
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
