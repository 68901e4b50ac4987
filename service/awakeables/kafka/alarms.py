"""What is wrong now: said once when it begins, once when it ends, shown by readiness meanwhile."""

from __future__ import annotations

from collections.abc import MutableMapping

import structlog

log = structlog.stdlib.get_logger(__name__)


class Alarms:
    """Alarms by name, on the board that readiness looks at."""

    def __init__(self, board: MutableMapping[str, str]) -> None:
        self._board = board
        self._raised: dict[str, str] = {}

    def sound(self, name: str, event: str, text: str, **facts: object) -> None:
        """Something is wrong; logged unless the same was wrong before."""
        self._board[name] = text
        if self._raised.get(name) != event:
            self._raised[name] = event
            log.error(event, problem=text, **facts)

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
