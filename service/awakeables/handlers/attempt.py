"""The port `Attempt`: one try of one invocation, wherever its code runs.

The owner of an invocation passes `News` and gets `Progress` back. Both are plain records that survive a
round trip through JSON, so the code may run in this process (`handlers/local.py`), in a process that
keeps no state between calls (`handlers/stateless.py`), or behind a network.

    advance(news) ─▶ progress: blocked on a set of waits, or ended
        ▲                │
        └── an outcome, a commit that is done, a cancellation ◀─┘
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from msgspec.structs import replace

from awakeables.core.commands import NewAwakeable, NewCall
from awakeables.core.effects import Effect
from awakeables.core.journal import Entry
from awakeables.core.objects import StateWrite
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution
from awakeables.core.records import Record
from awakeables.handlers.serde import Codec
from awakeables.telemetry.vocabulary import AttemptEnd

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans

MAX_TRACEBACK_CHARACTERS = 8_000
"""About 80 frames."""


class AwakeableWait(Record, tag_field="on", tag="awakeable"):
    """The handler waits for the answer to an awakeable, or for the end of a call."""

    index: int
    awakeable_id: str


class TimerWait(Record, tag_field="on", tag="timer"):
    """The handler sleeps until an instant."""

    index: int
    until_ms: int


class RunWait(Record, tag_field="on", tag="run"):
    """The handler waits for an action, which the attempt executes on its own side.

    Attributes:
        began: The action is being executed.
        due_ms: It failed, and will not be retried before this instant.
    """

    index: int
    name: str
    began: bool = False
    due_ms: int | None = None


class SettleWait(Record, tag_field="on", tag="settle"):
    """The handler waits for the verdict on a completion that it made; the owner settles it.

    Attributes:
        of_promise: What it completes is a promise of its workflow.
    """

    index: int
    awakeable_id: str
    answer: Resolution | Rejection
    trace: str | None = None
    of_promise: bool = False


class StateWait(Record, tag_field="on", tag="state"):
    """The handler waits for a value in the state of its key, which the owner reads.

    Attributes:
        service: The object.
        name: The name; None: the names of all of it.
        promise_id: It is the name of a promise, whose outcome is read.
        progress_of: The awakeable whose last heartbeat is read, instead of a state.
    """

    index: int
    service: str
    key: str
    name: str | None = None
    promise_id: str | None = None
    progress_of: str | None = None


Wait: TypeAlias = AwakeableWait | TimerWait | RunWait | SettleWait | StateWait


class Finished(Record, tag_field="end", tag="finished"):
    """The handler returned, or raised a `TerminalError`."""

    result: Resolution | Rejection | Cancellation


class Crashed(Record, tag_field="end", tag="crashed"):
    """The handler or an action raised another error: the attempt failed and can be retried.

    Attributes:
        of: The actions that failed, by their places in the journal. What went on beside them is in the
            progress, to be committed; None: the handler raised it, and what the progress has is of a step
            that failed.
        traceback: The stack of the error as text for the log; its end, if it is longer than
            `MAX_TRACEBACK_CHARACTERS`. Not part of what is stored.
    """

    kind: str
    message: str
    traceback: str = ""
    of: tuple[int, ...] | None = None


class Broken(Record, tag_field="end", tag="broken"):
    """The attempt can't go on with this code: the invocation must be paused; `of` is as of `Crashed`."""

    kind: str
    message: str
    of: tuple[int, ...] | None = None


class Left(Record, tag_field="end", tag="left"):
    """The handler was unwound at its await, because the owner stopped the attempt."""


Ending: TypeAlias = Finished | Crashed | Broken | Left


class News(Record):
    """What an attempt learns from its owner.

    Attributes:
        now_ms: The owner's clock.
        durable: How many journal entries are on disk. An action starts only when its own entry and all
            entries before it are (J3, A3). 0: none is to start.
        arrived: Outcomes of operations that the attempt is blocked on, in order of arrival, with the
            operations' indexes. Each call delivers at most one to the handler.
        cancel: The invocation was cancelled. `Cancelled` is raised in the handler once, before any
            outcome that is not journaled, but not while it is shielded.
        stop: Journal what this call delivers, then unwind the handler.
    """

    now_ms: int
    durable: int = 0
    arrived: tuple[tuple[int, Outcome], ...] = ()
    cancel: bool = False
    stop: bool = False


class Progress(Record):
    """What an attempt has done since the last call.

    Attributes:
        entries: The entries to append to the journal, in order.
        awakeables: The rows of the awakeables among them, and of waits for calls.
        schemas: The JSON Schemas that those rows refer to, with their hashes.
        effects: The records to publish once the entries are durable.
        calls: The invocations that the handler calls or sends, to create in the same commit.
        called_off: The awakeables and invocations that it cancels.
        writes: The changes to the state of its key.
        waits_on: It waits for the same as before, without those whose outcomes were journaled by this call,
            and without `no_longer`; `blocked_on` has only what is new, and the actions whose state has
            changed. So thousands of outcomes of a combinator don't each list the others.
        no_longer: Operations whose outcomes can't change anything any more.
        blocked_on: What the handler waits for; any one of them resumes it.
        owes: An outcome was journaled that the next call delivers, whatever it is given. What the handler
            waits for is told then, or `waits_on` says that it is the same.
        running: How many actions are being executed.
        ended: How the attempt ended; None: it has not.
        shielded: The invocation's cancellation can't be raised now: the handler is in a block that it must
            not interrupt, or awaits an action that is being executed, or has returned.
        cancels: The awakeables to cancel, because this call raised the invocation's cancellation: those
            whose outcomes the handler had not received by then. What a branch awaits beside an action comes
            later, when it goes on.
        open_awakeables: Once it has ended, the awakeables whose outcomes the handler has not received.
    """

    entries: tuple[Entry, ...] = ()
    awakeables: tuple[NewAwakeable, ...] = ()
    schemas: tuple[tuple[str, bytes], ...] = ()
    effects: tuple[Effect, ...] = ()
    blocked_on: tuple[Wait, ...] = ()
    owes: bool = False
    running: int = 0
    ended: Ending | None = None
    shielded: bool = False
    cancels: tuple[str, ...] = ()
    open_awakeables: tuple[str, ...] = ()
    calls: tuple[NewCall, ...] = ()
    called_off: tuple[str, ...] = ()
    writes: tuple[StateWrite, ...] = ()
    waits_on: bool = False
    no_longer: tuple[int, ...] = ()


def joined(parts: Sequence[Progress]) -> Progress:
    """Return what an attempt has done by several steps as if it had been one."""
    return replace(
        parts[-1],
        entries=tuple(chain.from_iterable(part.entries for part in parts)),
        awakeables=tuple(chain.from_iterable(part.awakeables for part in parts)),
        schemas=tuple(dict(chain.from_iterable(part.schemas for part in parts)).items()),
        effects=tuple(chain.from_iterable(part.effects for part in parts)),
        cancels=tuple(chain.from_iterable(part.cancels for part in parts)),
        calls=tuple(chain.from_iterable(part.calls for part in parts)),
        called_off=tuple(chain.from_iterable(part.called_off for part in parts)),
        writes=tuple(chain.from_iterable(part.writes for part in parts)),
    )


class Attempt(Protocol):
    """One try of one invocation."""

    @property
    def error(self) -> BaseException | None:
        """The error behind `Crashed` or `Broken`; None if the handler's code is elsewhere."""
        ...

    def advance(self, news: News) -> Progress | Awaitable[Progress]:
        """Run the handler to its next wait or its end; must not be called again before it has returned.

        Returns:
            The progress, or an awaitable of it if the handler awaits something from asyncio.
        """
        ...

    def codec_of(self, awakeable_id: str) -> Codec[Any] | None:
        """How the answer to an awakeable is decoded; None if the handler's code is elsewhere."""
        ...

    def record(self, spans: Spans) -> None:
        """Record spans of what the handler does, from before its first step until `close`.

        If the handler's code is elsewhere, nothing is recorded.
        """
        ...

    def close(self, end: AttemptEnd = "left") -> None:
        """Release the handler, however the attempt ended; `end` is for its span. May be called again."""
        ...


class Origin(Record):
    """The invocation that an attempt is for.

    Attributes:
        number: 1 for the first attempt; it restarts at 1 after each commit that adds to the journal.
        exclusive: Whether it holds its key, so that no other invocation writes the state.
    """

    invocation_id: str
    service: str
    handler: str
    number: int = 1
    exclusive: bool = False


Ready: TypeAlias = Callable[[], object]
"""Called by an attempt, from any thread, to request a call of `advance`: an action has ended."""


class Attempts(Protocol):
    """Opens attempts: the place where handlers run."""

    def open(self, origin: Origin, history: Sequence[Entry], ready: Ready) -> Attempt:
        """Open an attempt on a journal; the handler does not run before `advance`.

        Raises:
            NotFound: There is no such handler, or none of the version in the journal's input.
        """
        ...

    def unavailable(self) -> Sequence[str]:
        """The handlers that can't run now, as `versions.target` names them: nothing of them is claimed."""
        ...

    async def close(self) -> None:
        """Stop everything that still runs: handlers that await something from asyncio, and actions."""
        ...
