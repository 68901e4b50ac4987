"""The port `Attempt`: one try of one invocation, wherever its code runs.

The owner of an invocation hands in `News` and gets `Progress` back. Both are plain records that
survive a round trip through JSON, so the code may run in this process (`handlers/local.py`), in a
process that keeps nothing between two calls (`handlers/stateless.py`), or behind a network.

    advance(news) ─▶ progress: blocked on a set of waits, or ended
        ▲                │
        └── an outcome, a commit that is done, a cancellation ◀─┘
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias

from awakeables.core.commands import NewAwakeable
from awakeables.core.effects import Effect
from awakeables.core.journal import Entry
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution
from awakeables.core.records import Record
from awakeables.handlers.serde import Codec


class AwakeableWait(Record, tag_field="on", tag="awakeable"):
    """The handler waits for the answer to an awakeable."""

    index: int
    awakeable_id: str


class TimerWait(Record, tag_field="on", tag="timer"):
    """The handler sleeps until an instant."""

    index: int
    until_ms: int


class RunWait(Record, tag_field="on", tag="run"):
    """The handler waits for an action, which the attempt executes on its own side.

    Attributes:
        began: It is being executed.
        due_ms: It failed, and is tried again at this instant at the earliest.
    """

    index: int
    name: str
    began: bool = False
    due_ms: int | None = None


class SettleWait(Record, tag_field="on", tag="settle"):
    """The handler waits for the verdict on a completion of its own, which the owner settles."""

    index: int
    awakeable_id: str
    answer: Resolution | Rejection
    trace: str | None = None


Wait: TypeAlias = AwakeableWait | TimerWait | RunWait | SettleWait


class Finished(Record, tag_field="end", tag="finished"):
    """The handler returned, or raised a `TerminalError`."""

    result: Resolution | Rejection | Cancellation


class Crashed(Record, tag_field="end", tag="crashed"):
    """The handler raised something else: the attempt failed and can be tried again."""

    kind: str
    message: str


class Broken(Record, tag_field="end", tag="broken"):
    """The attempt can't go on with this code: the invocation is to be paused."""

    kind: str
    message: str


class Left(Record, tag_field="end", tag="left"):
    """The handler was told to let go at its await, and did."""


Ended: TypeAlias = Finished | Crashed | Broken | Left


class News(Record):
    """What the owner tells an attempt.

    Attributes:
        now_ms: The owner's clock.
        durable: How many entries of the journal are on disk. An action starts only when its own
            entry and all before it are (J3, A3).
        arrived: Outcomes of what the attempt is blocked on, in the order in which they came, by the
            indexes of their operations. At most one is handed out for each call.
        cancel: The invocation was cancelled. That is raised in the handler once, before any outcome
            that is not yet journaled, but not while an action that it waits for is being executed.
        stop: Let go: journal what is handed out by this call, then unwind the handler.
    """

    now_ms: int
    durable: int = 0
    arrived: tuple[tuple[int, Outcome], ...] = ()
    cancel: bool = False
    stop: bool = False


class Progress(Record):
    """What an attempt has done since it was last called.

    Attributes:
        entries: What is to be appended to the journal, in order.
        awakeables: The rows of the awakeables among them.
        schemas: The JSON Schemas that those rows name, by their hashes.
        effects: The records that are to be published once the entries are durable.
        blocked_on: What the handler waits for: any one of it lets it go on. Empty while it has not
            ended: an outcome was journaled that the next call hands out.
        running: How many actions are being executed.
        ended: How the attempt ended; None: it has not.
        cancels: The awakeables that the invocation's cancellation, which was raised by this call,
            calls off: those whose outcomes the handler had not been given by then.
        open_awakeables: When it has ended: the awakeables whose outcomes it was not given.
    """

    entries: tuple[Entry, ...] = ()
    awakeables: tuple[NewAwakeable, ...] = ()
    schemas: tuple[tuple[str, bytes], ...] = ()
    effects: tuple[Effect, ...] = ()
    blocked_on: tuple[Wait, ...] = ()
    running: int = 0
    ended: Ended | None = None
    cancels: tuple[str, ...] = ()
    open_awakeables: tuple[str, ...] = ()


class Attempt(Protocol):
    """One try of one invocation."""

    @property
    def error(self) -> BaseException | None:
        """What `Crashed` or `Broken` tells of, where the handler runs in this process."""
        ...

    def advance(self, news: News) -> Progress | Awaitable[Progress]:
        """Go on from what is new, to the next wait or the end; called again only after it has answered.

        The answer itself where the handler has awaited nothing of asyncio's meanwhile.
        """
        ...

    def codec_of(self, awakeable_id: str) -> Codec[Any] | None:
        """How the answer to an awakeable is read, where the code that asked for it is at hand."""
        ...

    def close(self) -> None:
        """Drop what is left of the handler, however the attempt ended."""
        ...


class Origin(Record):
    """Whose attempt it is.

    Attributes:
        number: 1 for the first attempt; counted anew after each commit that adds to the journal.
    """

    invocation_id: str
    service: str
    handler: str
    number: int = 1


Ready: TypeAlias = Callable[[], object]
"""Called by an attempt, from any thread, when it wants `advance` to be called: an action has ended."""


class Attempts(Protocol):
    """Where handlers run."""

    def open(self, origin: Origin, history: Sequence[Entry], ready: Ready) -> Attempt:
        """Begin an attempt along a journal; nothing of the handler runs before `advance`.

        Raises:
            NotFound: There is no such handler.
        """
        ...

    async def close(self) -> None:
        """End what still runs of any attempt: handlers that await something of asyncio's, and actions."""
        ...
