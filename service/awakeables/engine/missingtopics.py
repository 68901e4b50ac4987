"""Since when topics are missing: records to one are refused together, not each after a wait of its own."""

from __future__ import annotations

from awakeables.ports import Clock


class MissingTopics:
    """Remembers since when each topic is known to be missing.

    Records to a missing topic are held in memory while they are tried again. If each were waited for
    by itself, those to a busy topic that is missing would keep all others out.
    """

    def __init__(self, clock: Clock, *, patience_s: float) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._seen: dict[str, tuple[float, float]] = {}

    def is_overdue(self, topic: str) -> bool:
        """Note that a topic is missing now; True once it has been for longer than our patience.

        If nobody asked for it for that long, it may have been there in between: it is waited for again.
        """
        now_s = self._clock.monotonic()
        first_s, last_s = self._seen.get(topic, (now_s, now_s))
        if now_s - last_s > self._patience_s:
            first_s = now_s
        self._seen[topic] = (first_s, now_s)
        return now_s - first_s >= self._patience_s

    def found(self, topic: str) -> None:
        """Note that a topic is there."""
        self._seen.pop(topic, None)
