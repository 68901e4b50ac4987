"""The invocations of a test, and the awakeables that wait in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.invocations import Invocation, Status
from awakeables.core.journal import decode_chunks
from awakeables.core.outcomes import Resolution
from awakeables.core.records import instant
from awakeables.core.replay import describe
from awakeables.errors import NotFound
from awakeables.handlers.execution import raise_terminal
from awakeables.handlers.service import Handler
from awakeables.testing.simulated import SimulatedService
from awakeables.testing.stuck import why_open

R_co = TypeVar("R_co", covariant=True)

NOBODY_ANSWERS = (
    "answer its tasks (`next_task`; or `on_task` before they are published), the ID that has left in another "
    "way (`waiting`, `resolve`), or give the awakeable a timeout"
)
"""What to do about a handler that is `Stuck`."""


class Running(Generic[R_co]):
    """An invocation that the test has begun, or has found."""

    def __init__(self, service: SimulatedService, handler: Handler, invocation_id: str) -> None:
        self._service = service
        self._handler = handler
        self._id = invocation_id

    def __repr__(self) -> str:
        status = self.status if self._id in self._service.store.tables.invocations else "purged"
        return f"<{self._handler.service}/{self._handler.name} {self._id}: {status}>"

    @property
    def id(self) -> str:
        """Its ID."""
        return self._id

    @property
    def status(self) -> Status:
        """Its status, such as `suspended`, `queued`, `paused` or `completed`.

        Raises:
            NotFound: It was purged.
        """
        return self._row.status

    @property
    def journal(self) -> Sequence[str]:
        """Its journal, one line per entry."""
        return [describe(entry) for entry in decode_chunks(self._service.store.chunks(self._id))]

    @property
    def waits(self) -> Sequence[WaitingAwakeable]:
        """Its awakeables that wait for answers."""
        return [each for each in waiting(self._service) if each.invocation_id == self._id]

    def result(self) -> R_co:
        """What the handler returned. Time passes until it has ended, from one event to the next.

        Raises:
            TerminalError: The handler failed.
            Cancelled: It was cancelled.
            Paused: It was paused, or one that it calls; the message says why.
            Stuck: It waits for answers that never come; the message lists the awakeables.
            NotFound: It was purged.
        """
        service = self._service

        async def end() -> None:
            await service.pass_time(lambda: self._row.status in ("completed", "paused"))

        service.drive(end)
        row = self._row
        if row.result is None:
            raise why_open(service, self._handler.name, row, NOBODY_ANSWERS)
        if not isinstance(row.result, Resolution):
            raise_terminal(row.result)
        value: R_co = self._handler.output.load_written(row.result.content)
        return value

    def cancel(self) -> None:
        """Cancel it: `Cancelled` is raised at its handler's await.

        Raises:
            NotPossible: It has ended.
        """
        self._service.operate(lambda api: api.cancel(self._id))

    def kill(self) -> None:
        """End it, and what it has called, at once: no handler is run, nothing is compensated.

        Raises:
            NotPossible: It has ended.
        """
        self._service.operate(lambda api: api.kill(self._id))

    def pause(self) -> None:
        """Pause it at its handler's next await.

        Raises:
            NotPossible: It has ended, or is paused.
        """
        self._service.operate(lambda api: api.pause(self._id))

    def resume(self) -> None:
        """Let it go on if it is paused.

        Raises:
            NotPossible: It is not.
        """
        self._service.operate(lambda api: api.resume(self._id))

    def restart(self, *, from_entry: int = 0) -> Running[R_co]:
        """Begin it again with the same input, as another invocation. If it is paused, it is killed.

        Args:
            from_entry: The last entry of its journal to keep, as `journal` numbers them: the new one replays
                it up to there. 0 keeps the input alone. The state of an object stays as it is now.

        Raises:
            NotPossible: It is still open, or its journal can't be cut there; the text says where it can.
            NotFound: It was purged.
        """
        begun = self._service.operate(lambda api: api.restart(self._id, from_entry=from_entry))
        return found(self._service, self._service.store.tables.invocations[begun])

    def purge(self) -> None:
        """Delete it, its journal and its awakeables; with the run of a workflow, what belongs to its key.

        Raises:
            NotPossible: It has not ended.
            NotFound: It was purged.
        """
        self._service.operate(lambda api: api.purge(self._id))

    @property
    def _row(self) -> Invocation:
        row = self._service.store.tables.invocations.get(self._id)
        if row is None:
            raise NotFound(f"no invocation {self._id}: it was purged")
        return row


def found(service: SimulatedService, row: Invocation) -> Running[Any]:
    """An invocation that was found."""
    handler = service.app.handler(row.service, row.handler, row.versions.handler)
    return Running(service, handler, row.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingAwakeable:
    """An awakeable that waits for its answer: `Harness.resolve` and `Harness.reject` take its ID.

    Attributes:
        id: Its ID.
        invocation_id: The invocation that has created it.
        handler: The handler, as `service/handler`.
        type: The type of its answer; None: any JSON.
        age: How long it has waited.
        deadline: When it times out; None: never.
        topic: The topic that its task was published to; None: none was.
    """

    id: str
    invocation_id: str
    handler: str
    type: str | None
    age: timedelta
    deadline: datetime | None
    topic: str | None


def waiting(service: SimulatedService) -> list[WaitingAwakeable]:
    """The awakeables that wait for answers, the oldest first."""
    return [_as_shown(service, row) for row in service.pending()]


def _as_shown(service: SimulatedService, row: AwakeableRow) -> WaitingAwakeable:
    of = service.store.tables.invocations[row.invocation_id]
    return WaitingAwakeable(
        id=row.id,
        invocation_id=row.invocation_id,
        handler=f"{of.service}/{of.handler}",
        type=row.type_name,
        age=timedelta(milliseconds=service.clock.now_ms() - row.created_ms),
        deadline=None if row.deadline_ms is None else instant(row.deadline_ms),
        topic=service.outside.topic_of(row.id),
    )
