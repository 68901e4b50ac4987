"""For how long topics have been missing: what is published to one fails together, not each by itself."""

from __future__ import annotations

from awakeables.ports import Clock


class Absences:
    """Remembers since when each topic is known to be missing.

    Records to a missing topic hold places of the relay while they are tried again. With a
    patience of their own each, those to a busy topic that is missing would keep out all others.
    """

    def __init__(self, clock: Clock, *, patience_s: float) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._seen: dict[str, tuple[float, float]] = {}

    def missed(self, topic: str) -> bool:
        """The topic is missing now. Has it been for longer than our patience?

        What was not looked at for as long may have been there in between: it counts anew.
        """
        now_s = self._clock.monotonic()
        first_s, last_s = self._seen.get(topic, (now_s, now_s))
        if now_s - last_s > self._patience_s:
            first_s = now_s
        self._seen[topic] = (first_s, now_s)
        return now_s - first_s >= self._patience_s

    def found(self, topic: str) -> None:
        """The topic is there."""
        self._seen.pop(topic, None)
