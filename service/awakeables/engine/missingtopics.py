"""How long topics have been missing, so that records to one are refused together, not one by one."""

from __future__ import annotations

from awakeables.ports import Clock


class MissingTopics:
    """Remembers since when each topic has been missing.

    Records to a missing topic are held in memory while they are retried. If each had a time-out of its
    own, those to a busy topic that is missing would fill the memory that all others need.
    """

    def __init__(self, clock: Clock, *, patience_s: float) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._seen: dict[str, tuple[float, float]] = {}

    def is_overdue(self, topic: str) -> bool:
        """Record that a topic is missing now; True if it has been for at least `patience_s`.

        After that long without a call the topic may have existed in between, so the time starts again.
        """
        now_s = self._clock.monotonic()
        first_s, last_s = self._seen.get(topic, (now_s, now_s))
        if now_s - last_s > self._patience_s:
            first_s = now_s
        self._seen[topic] = (first_s, now_s)
        return now_s - first_s >= self._patience_s

    def found(self, topic: str) -> None:
        """Record that a topic exists."""
        self._seen.pop(topic, None)
