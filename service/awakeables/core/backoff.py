"""How long to wait before something that failed is tried again."""

from __future__ import annotations


class Backoff:
    """Pauses in seconds, each twice as long as the one before, up to a longest.

    The caller sleeps, so that a pause can be cut short by an event, or pass in virtual time.
    """

    __slots__ = ("_first_s", "_longest_s", "_next_s")

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The pause that is due after one more failure."""
        pause_s = self._next_s
        self._next_s = min(pause_s * 2, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin with the shortest pause again, after a success."""
        self._next_s = self._first_s
