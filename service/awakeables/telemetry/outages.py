"""What fails again and again: logged when it begins, then ever more rarely, then when it is over."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from awakeables.core.backoff import Backoff

FIRST_REMINDER_S = 10.0
LONGEST_REMINDER_S = 600.0

QUIET_S = 15.0
"""A success ends an outage only if nothing has failed for so long: more than the longest pause between
tries, so that what fails for a part of the tries is one outage and no flood of beginnings and ends."""


@dataclass(slots=True)
class _Outage:
    failures: int
    reported_s: float
    failed_s: float
    reminders: Backoff
    pause_s: float


class Outages:
    """Counts failures by what they are about, and says which are to be logged."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._outages: dict[Hashable, _Outage] = {}

    def failed(self, about: Hashable) -> int | None:
        """It has failed: how often by now, if that is to be logged."""
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
        """It has not failed: how often it had, if an outage is over by that."""
        outage = self._outages.get(about)
        if outage is None or self._monotonic() - outage.failed_s < QUIET_S:
            return None
        del self._outages[about]
        return outage.failures
