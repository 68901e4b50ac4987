"""What a worker's function takes, and how it says no."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from awakeables.worker.heartbeats import Beat

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Generic[T]):
    """A piece of work that an awakeable waits for.

    It may be delivered more than once (at least once): use `awakeable_id` as the idempotency key of side
    effects.

    Attributes:
        payload: What the handler published.
        awakeable_id: The awakeable that the answer settles; the same over every delivery.
        attempt: 1 for the first try of this delivery, one more for each retry.
        deadline: When the awakeable times out; a later answer has no effect.
        headers: The record's headers as text; of a repeated name the last one counts. Bytes that are
            not UTF-8 can be restored with `.encode("utf-8", "surrogateescape")`.
        name: The task's name, where its topic has several.
        topic: Where the record came from.
        event_id: The record's ID, stable over resends.
    """

    payload: T
    awakeable_id: str
    attempt: int = 1
    deadline: datetime | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    topic: str = ""
    event_id: str | None = None
    _beat: Callable[[Any], None] | None = field(default=None, repr=False, compare=False)

    def heartbeat(self, progress: Any = None) -> Beat:
        """Say that the work goes on, and how far it is.

        Call it as often as you like: the newest heartbeat is sent, at most three in the time that the
        handler allows between two of them. In an `async` function await it, which gives the event loop a
        turn; a plain function calls it.

        Args:
            progress: How far it is, for the handler and for people: a model or any JSON value, of at most
                64 KiB. None leaves what was reported before.

        Raises:
            TaskOver: Nobody waits for the answer any more. Known if the handler has asked for heartbeats, or
                has made the awakeable revocable.
            ValueError: The progress can't be sent.
        """
        if self._beat is not None:
            self._beat(progress)
        return Beat()

    @property
    def traceparent(self) -> str | None:
        """The trace that the task belongs to (W3C Trace Context); its completion carries it, too."""
        return self.headers.get("traceparent")


class Reject(Exception):  # reads as the verb that it is: raise Reject("out of stock")
    """Raised by a worker's function to reject the awakeable, without a retry.

    Attributes:
        reason: What happened, for people; the waiting handler gets it.
        code: Like an HTTP status.
        details: Any value that JSON can represent, for programs.
    """

    def __init__(self, reason: str, *, code: int = 400, details: Any = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.details = details

    def __repr__(self) -> str:
        return f"Reject({self.reason!r}, code={self.code}, details={self.details!r})"
