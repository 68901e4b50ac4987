"""Current problems: each is logged when it begins and when it ends, and shown by readiness meanwhile."""

from __future__ import annotations

from collections.abc import MutableMapping

import structlog

log = structlog.stdlib.get_logger(__name__)


class ProblemBoard:
    """Problems by name, on the mapping that readiness shows."""

    def __init__(self, shown: MutableMapping[str, str]) -> None:
        self._shown = shown
        self._reported: dict[str, str] = {}

    def report(self, name: str, event: str, text: str, **facts: object) -> None:
        """Show a problem; it is logged unless the last one of this name had the same event."""
        self._shown[name] = text
        if self._reported.get(name) != event:
            self._reported[name] = event
            log.error(event, problem=text, **facts)

    def clear(self, name: str, event: str | None = None, **facts: object) -> None:
        """Remove a problem, if there is one; with an event, its end is logged."""
        if name in self._reported:
            del self._reported[name]
            self._shown.pop(name, None)
            if event is not None:
                log.info(event, **facts)

    def clear_all(self, prefix: str) -> None:
        """Remove the problems with these names; those that persist will be reported again."""
        for name in [name for name in self._reported if name.startswith(prefix)]:
            self.clear(name)
