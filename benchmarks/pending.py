"""A million waiting invocations: what they cost in memory, at the start, and for calls that do not wait."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks import disk
from benchmarks.pairs import Entrant, Plan, compare
from benchmarks.processes import wait_until_ready
from benchmarks.stage import Ground, Stage, staged

FEW = 1000
STARTS = 3


def measure(ground: Ground, plan: Plan, *, count: int) -> dict[str, Any]:
    """Compare a store with so many pending invocations with one of a thousand.

    Raises:
        disk.Broken: What a store has kept does not fit the answers, or one of them waits no more.
        Failed: A process ended.
    """
    with staged(ground) as many_stage, staged(ground) as few_stage:
        many_store, seed_s = _seeded(many_stage, count)
        few_store, _ = _seeded(few_stage, FEW)
        store_mb = disk.size_mb(many_store)
        disk.forget_cached(many_store)
        cold_s = _start_s(many_stage, many_store)
        warm_s = [_start_s(many_stage, many_store) for _ in range(STARTS)]
        many = _entrant(f"{count:,} pending", many_stage, many_store)
        few = _entrant(f"{FEW:,} pending", few_stage, few_store)
        for entrant in (many, few):
            wait_until_ready(entrant.server.process, entrant.server.port)
        service = many.server.process
        ready_mb = service.memory_mb()
        found = compare(few, many, plan)
        loaded_mb, peak_mb = service.memory_mb(), service.peak_memory_mb()
        disk.audit(many_store, answered=many.answered, pending=count)
        disk.audit(few_store, answered=few.answered, pending=FEW)
    return found | {
        "count": count,
        "seed_s": seed_s,
        "store_mb": store_mb,
        "cold_start_s": cold_s,
        "start_s": statistics.median(warm_s),
        "ready_mb": ready_mb,
        "loaded_mb": loaded_mb,
        "peak_mb": peak_mb,
    }


def _seeded(stage: Stage, count: int) -> tuple[Path, float]:
    store = stage.folder / "bench.db"
    began = time.perf_counter()
    stage.run("seed", "-m", "benchmarks.seed", "--store", str(store), "--count", str(count))
    return store, time.perf_counter() - began


def _start_s(stage: Stage, store: Path) -> float:
    """From the start of the process to ready; it is ended again."""
    began = time.perf_counter()
    server = stage.serve(store)
    try:
        wait_until_ready(server.process, server.port)
        return time.perf_counter() - began
    finally:
        server.process.stop()


def _entrant(what: str, stage: Stage, store: Path) -> Entrant:
    return Entrant(what, stage.serve(store), stage.plain_worker())
