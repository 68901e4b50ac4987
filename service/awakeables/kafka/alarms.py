"""What is wrong now: said once when it begins, once when it ends, shown by readiness meanwhile."""

from __future__ import annotations

from collections.abc import MutableMapping

import structlog

log = structlog.stdlib.get_logger(__name__)


class Alarms:
    """Alarms by name, on the board that readiness looks at.

    Attributes:
        records_expired: Records that were deleted before they were read: lost, so never cleared.
    """

    def __init__(self, board: MutableMapping[str, str]) -> None:
        self.records_expired = 0
        self._board = board
        self._raised: dict[str, str] = {}
        self._lost_to: dict[str, int] = {}

    def sound(self, name: str, event: str, text: str, **facts: object) -> None:
        """Something is wrong; logged unless the same was wrong before."""
        self._board[name] = text
        if self._raised.get(name) != event:
            self._raised[name] = event
            log.error(event, problem=text, **facts)

    def lost(self, name: str, first: int, behind: int) -> int:
        """Records from `first` up to `behind` expired unread; how many of them are news."""
        news = max(0, behind - max(first, self._lost_to.get(name, 0)))
        self._lost_to[name] = behind
        self.records_expired += news
        return news

    def clear(self, name: str, event: str | None = None, **facts: object) -> None:
        """It is well; logged, with an event, if it was wrong before."""
        if name in self._raised:
            del self._raised[name]
            self._board.pop(name, None)
            if event is not None:
                log.info(event, **facts)

    def clear_all(self, prefix: str) -> None:
        """Whatever is still wrong with these will be said again."""
        for name in [name for name in self._raised if name.startswith(prefix)]:
            self.clear(name)
