"""Gauges of rows: how many there are, and the age of the oldest.

They are set in the background. A scrape returns the last counts, so it never waits for the store, and
scrapes cost the store nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta

from awakeables.core.invocations import STATUSES
from awakeables.engine.readiness import Readiness
from awakeables.errors import StoreUnavailable
from awakeables.ports import QUEUED_OLDEST, Clock
from awakeables.telemetry.metrics import Metrics
from awakeables.telemetry.vocabulary import PROBLEM_KINDS, ProblemKind


class RowGauges:
    """Sets the gauges from the store's counts, every few seconds."""

    def __init__(
        self,
        counts: Callable[[], Awaitable[Mapping[str, int]]],
        metrics: Metrics,
        *,
        clock: Clock,
        objects: Iterable[str] = (),
        interval: timedelta = timedelta(seconds=5),
    ) -> None:
        """Prepare to count.

        Args:
            counts: Those of the store.
            metrics: Has the gauges.
            clock: The time.
            objects: The app's; those of other code are shown once something has waited for a key of theirs.
            interval: How often to count.
        """
        self._counts = counts
        self._metrics = metrics
        self._clock = clock
        self._objects = set(objects)
        self._interval_s = interval.total_seconds()
        self._taken_s = clock.monotonic()
        metrics.rows_counted_age_s.set_function(lambda: clock.monotonic() - self._taken_s)

    async def run(self) -> None:
        """Count until cancelled. While the store is down, the gauges keep their values.

        The interval is fixed, however long a count takes: with gauges of any age, alarms would not end, or
        not begin. The store keeps the counts (ADR 11), so reading them often costs little.
        """
        while True:
            # `awakeables_rows_counted_age_seconds` and readiness show that the store is down.
            with suppress(StoreUnavailable):
                await self.take()
            await asyncio.sleep(self._interval_s)

    async def take(self) -> None:
        """Count once.

        Raises:
            StoreUnavailable: The gauges have not changed.
        """
        counts = await self._counts()
        now_ms = self._clock.now_ms()
        metrics = self._metrics
        metrics.pending.set(counts["awakeables_pending"])
        metrics.pending_oldest_s.set(_age_s(counts.get("awakeables_oldest_ms"), now_ms))
        for status in STATUSES:
            if status != "completed":
                metrics.invocations.labels(status).set(counts[f"invocations_{status}"])
        self._objects |= {key.removeprefix(QUEUED_OLDEST) for key in counts if key.startswith(QUEUED_OLDEST)}
        for name in self._objects:
            since_ms = counts.get(f"{QUEUED_OLDEST}{name}")
            metrics.queued_oldest_s.labels(name).set(_age_s(since_ms, now_ms))
        metrics.outbox_unsent.set(counts["effects_unsent"])
        metrics.outbox_oldest_s.set(_age_s(counts.get("effects_oldest_ms"), now_ms))
        metrics.outbox_failed.set(counts["effects_failed"])
        metrics.dead_letters_kept.set(counts["dead_letters"])
        metrics.rows_counted_at_s.set(now_ms / 1000)
        self._taken_s = self._clock.monotonic()


def show_readiness(metrics: Metrics, problems: Mapping[str, str], readiness: Callable[[], Readiness]) -> None:
    """Set the gauges of readiness and of problems at every scrape."""
    metrics.ready.set_function(lambda: readiness().is_ready)
    for about in PROBLEM_KINDS:
        metrics.problems.labels(about).set_function(
            lambda about=about: sum(_about(name) == about for name in problems)  # type: ignore[misc]
        )


def _about(problem: str) -> ProblemKind:
    """The kind of a problem, by its name."""
    words = problem.split()
    return next((kind for kind in PROBLEM_KINDS if kind in words), "other")


def _age_s(made_ms: int | None, now_ms: int) -> float:
    """The age of the oldest; 0 if there is none, or if the clock was set back."""
    return 0.0 if made_ms is None else max(0, now_ms - made_ms) / 1000
