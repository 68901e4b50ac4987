"""Which ticks of a schedule are due, and which of them were missed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import takewhile
from typing import Final, NamedTuple

from awakeables.handlers.schedule import Schedule

LATE_MS: Final = 60_000
"""A tick that is found later than that was missed: nobody was there to begin it in time."""

MOST_MISSED: Final = 1000
"""How many missed ticks are looked at: those to begin, and those to count."""


class DueTicks(NamedTuple):
    """What is due.

    Attributes:
        ticks: What to begin, the oldest first.
        missed: How many ticks are too late to begin, up to a thousand.
        following_ms: The first tick that is not due yet.
    """

    ticks: Sequence[int]
    missed: int
    following_ms: int


def due_ticks(schedule: Schedule, next_ms: int, now_ms: int) -> DueTicks:
    """What is due of a schedule whose next tick has come."""
    late = _late(schedule, next_ms, now_ms - LATE_MS)
    last_ms = late[-1] if late else next_ms - 1
    in_time = list(takewhile(lambda tick: tick <= now_ms, schedule.after(last_ms)))
    begun: Sequence[int] = []
    if schedule.missed == "all":
        oldest_ms = now_ms - schedule.within // timedelta(milliseconds=1)
        begun = [tick for tick in late if tick >= oldest_ms]
    elif schedule.missed == "once" and not in_time:
        begun = late[-1:]  # otherwise a tick in time stands for those before it, too
    following_ms = schedule.following(max(now_ms, next_ms))
    return DueTicks([*begun, *in_time], len(late) - len(begun), following_ms)


def _late(schedule: Schedule, next_ms: int, before_ms: int) -> Sequence[int]:
    """The ticks from the next one on that are before an instant: the last ones, if there are many."""
    if next_ms >= before_ms:
        return []
    late = [next_ms]
    for tick in schedule.after(next_ms):
        if tick >= before_ms:
            return late
        late.append(tick)
        if len(late) == MOST_MISSED:
            break
    span_ms = late[-1] - next_ms
    while before_ms - span_ms > late[-1]:
        last = list(takewhile(lambda tick: tick < before_ms, schedule.after(before_ms - span_ms)))
        if len(last) >= MOST_MISSED:
            return last[-MOST_MISSED:]
        span_ms *= 2
    rest = takewhile(lambda tick: tick < before_ms, schedule.after(late[-1]))
    return [*late, *rest][-MOST_MISSED:]
