"""Repeated failures: logged at the first, then at growing intervals, then once they are over."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from awakeables.core.backoff import Backoff

FIRST_REMINDER_S = 10.0
LONGEST_REMINDER_S = 600.0

QUIET_S = 15.0
"""How long after the last failure a success ends an outage. Longer than the longest delay between retries,
so that intermittent failures are one outage, not a flood of starts and ends."""


@dataclass(slots=True)
class _Outage:
    failures: int
    reported_s: float
    failed_s: float
    reminders: Backoff
    pause_s: float


class Outages:
    """Counts failures by subject, and decides which of them to log."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._outages: dict[Hashable, _Outage] = {}

    def failed(self, about: Hashable) -> int | None:
        """Count a failure; return the number of failures if this one should be logged."""
        now_s = self._monotonic()
        outage = self._outages.get(about)
        if outage is None:
            reminders = Backoff(FIRST_REMINDER_S, LONGEST_REMINDER_S)
            self._outages[about] = _Outage(1, now_s, now_s, reminders, reminders.next_s())
            return 1
        outage.failures += 1
        outage.failed_s = now_s
        if now_s - outage.reported_s < outage.pause_s:
            return None
        outage.reported_s = now_s
        outage.pause_s = outage.reminders.next_s()
        return outage.failures

    def succeeded(self, about: Hashable) -> int | None:
        """Note a success; return the number of failures if it ends an outage."""
        outage = self._outages.get(about)
        if outage is None or self._monotonic() - outage.failed_s < QUIET_S:
            return None
        del self._outages[about]
        return outage.failures
