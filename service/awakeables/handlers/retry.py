"""Retry policies: exponential back-off with a limit on attempts and on time."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon something is retried.

    The n-th failure is followed by a pause of `initial_interval × factor^(n-1)`, at most
    `max_interval`.

    Attributes:
        max_attempts: All attempts, including the first; None: no limit.
        max_duration: No attempt begins later than this after the first; None: no limit.
    """

    initial_interval: timedelta = timedelta(milliseconds=500)
    factor: float = 2.0
    max_interval: timedelta = timedelta(seconds=60)
    max_attempts: int | None = 70
    max_duration: timedelta | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: One of them is out of range; the message says which.
        """
        if self.initial_interval < timedelta(0) or self.max_interval < timedelta(0):
            raise ValueError("RetryPolicy: intervals can't be negative")
        if not self.factor >= 1:  # NaN is not, either
            raise ValueError(f"RetryPolicy: factor must be at least 1, not {self.factor}")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"RetryPolicy: max_attempts must be at least 1, not {self.max_attempts}")

    def pause_ms(self, failures: int) -> int | None:
        """Milliseconds to wait after that many failures; None: give up."""
        if self.max_attempts is not None and failures >= self.max_attempts:
            return None
        try:
            grown = float(min(self.factor, sys.float_info.max)) ** (failures - 1)
        except OverflowError:
            grown = sys.float_info.max
        pause_s = min(self.initial_interval.total_seconds() * grown, self.max_interval.total_seconds())
        return round(pause_s * 1000)

    def is_over(self, began_ms: int, next_ms: int) -> bool:
        """Whether an attempt at `next_ms` would begin later than `max_duration` allows."""
        return self.max_duration is not None and next_ms - began_ms > self.max_duration.total_seconds() * 1000
