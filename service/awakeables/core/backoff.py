"""Exponential back-off: how long to wait before the next retry."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Pauses in seconds, each twice as long as the one before, up to a maximum.

    The caller sleeps, so that an event can end a pause early and tests can use virtual time.
    """

    __slots__ = ("_first_s", "_jitter", "_longest_s", "_next_s")

    def __init__(
        self, first_s: float, longest_s: float, *, jitter: Callable[[], float] = lambda: 1.0
    ) -> None:
        """Begin with the shortest pause.

        Args:
            first_s: The shortest pause, in seconds.
            longest_s: The longest.
            jitter: Gives the factor of each pause, so that several who failed together retry apart.
        """
        self._first_s = first_s
        self._longest_s = longest_s
        self._jitter = jitter
        self._next_s = first_s

    def next_s(self) -> float:
        """The pause to make after one more failure."""
        pause_s = self._next_s
        self._next_s = min(pause_s * 2, self._longest_s)
        return pause_s * self._jitter()

    def reset(self) -> None:
        """Start again with the shortest pause, after a success."""
        self._next_s = self._first_s
