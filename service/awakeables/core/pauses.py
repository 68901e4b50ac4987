"""The row of a pause: a handler, or a whole service, of which nothing is claimed until it is resumed.

What runs goes on to its next suspension. Whatever is begun or becomes due meanwhile waits as `pending`.
"""

from __future__ import annotations

from collections.abc import Iterable

from awakeables.core.records import Row


class PauseRow(Row):
    """A pause.

    Attributes:
        target: What is paused: a service, or one handler as `service/handler`, in all of its versions.
        since_ms: When it was paused.
        by: The name of the token with which it was, if there was one.
    """

    target: str
    since_ms: int
    by: str | None = None


def covers(target: str, service: str, handler: str) -> bool:
    """Whether a pause is of this handler, or of its service."""
    return target in (service, f"{service}/{handler}")


def pause_of(rows: Iterable[PauseRow], service: str, handler: str) -> PauseRow | None:
    """The pause of a handler, or of its service; None: it is not paused."""
    return next((row for row in rows if covers(row.target, service, handler)), None)
