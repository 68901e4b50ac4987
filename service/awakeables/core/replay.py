"""Replay: the same operations in the same order, outcomes in the order of the journal (J2).

`Replay` walks the history once. While history is left, what the handler asks for must be what
stands there; past its end, what it asks for is new and is collected for the next commit.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TypeVar, cast

from awakeables.core.journal import (
    AwakeableCreated,
    CancellationRaised,
    ClockRead,
    Entry,
    Input,
    OutcomeDelivered,
    PublishRequested,
    RunAttemptFailed,
    RunRequested,
    SettleRequested,
    SleepRequested,
)
from awakeables.core.outcomes import Outcome
from awakeables.errors import ReplayMismatch

Op = TypeVar(
    "Op", AwakeableCreated, PublishRequested, RunRequested, SleepRequested, SettleRequested, ClockRead
)


class Replay:
    """One walk of a handler along its journal.

    Attributes:
        entries: The journal, with what is new at its end.
        replaying: Is there history left that the handler has not repeated yet?
        outcomes: What has been handed to the handler so far, by the operation's index.
        tried: The last failed try of each run that is still to be retried.
    """

    def __init__(self, history: Sequence[Entry]) -> None:
        """Begin at the input, which must be there."""
        self.entries = list(history)
        self._history = len(self.entries)
        self.replaying = self._history > 1
        self._cursor = 1
        self._committed = self._history
        self.outcomes: dict[int, Outcome] = {}
        self.tried: dict[int, RunAttemptFailed] = {}

    @property
    def input(self) -> Input:
        first = self.entries[0]
        assert isinstance(first, Input)
        return first

    def ask(self, op: Op) -> tuple[int, Op]:
        """Match an operation against the history, or note it as new.

        Returns:
            Its index, and the operation as it was first asked for (with the first ID, the first
            instant), which is the one to use.

        Raises:
            ReplayMismatch: History tells of something else here.
        """
        if not self.replaying:
            self.entries.append(op)
            return len(self.entries) - 1, op
        index = self._cursor
        recorded = self.entries[index]
        if _signature(recorded) != _signature(op):
            raise ReplayMismatch(self._difference(f"asks for: {describe(op)}"))
        self._pass()
        return index, cast("Op", recorded)

    def recall(self, waited: Container[int]) -> int | CancellationRaised | None:
        """Hand out what history has next for a handler that awaits one of `waited`.

        Returns:
            The index of the operation that ended, its outcome now in `outcomes`; or the
            cancellation that is to be raised here; None when history has run out, so that the
            outcome must come from outside.

        Raises:
            ReplayMismatch: History tells that the handler did something else than wait here.
        """
        while self.replaying:
            entry = self.entries[self._cursor]
            match entry:
                case RunAttemptFailed() if entry.of in waited:
                    self.tried[entry.of] = entry
                    self._pass()
                case OutcomeDelivered() if entry.of in waited:
                    self.outcomes[entry.of] = entry.outcome
                    self._pass()
                    return entry.of
                case CancellationRaised():
                    self._pass()
                    return entry
                case _:
                    names = ", ".join(self.describe_at(i) for i in range(self._history) if i in waited)
                    raise ReplayMismatch(self._difference(f"awaits: {names}"))
        return None

    def finish(self) -> None:
        """Check that a handler that ends has repeated all its history.

        Raises:
            ReplayMismatch: It ended while history tells of more.
        """
        if self.replaying:
            raise ReplayMismatch(self._difference("ends"))

    def deliver(self, index: int, outcome: Outcome) -> None:
        """Note an outcome that comes from outside, at the place where the handler gets it."""
        self.outcomes[index] = outcome
        self.entries.append(OutcomeDelivered(of=index, outcome=outcome))

    def retry(self, tried: RunAttemptFailed) -> None:
        """Note a failed try of a run."""
        self.tried[tried.of] = tried
        self.entries.append(tried)

    def cancel(self, raised: CancellationRaised) -> None:
        """Note that the invocation's cancellation is raised at this await."""
        self.entries.append(raised)

    @property
    def cancelled(self) -> bool:
        """Was the cancellation raised, here or in history that is still to be repeated?"""
        return any(isinstance(entry, CancellationRaised) for entry in self.entries)

    def take_new(self) -> list[Entry]:
        """What is not yet committed; the next call does not give it again."""
        new = self.entries[self._committed :]
        self._committed += len(new)
        return new

    def open_awakeables(self) -> tuple[str, ...]:
        """The awakeables that were asked for and whose outcome was not handed out."""
        asked = enumerate(self.entries)
        return tuple([e.id for n, e in asked if isinstance(e, AwakeableCreated) and n not in self.outcomes])

    def describe_at(self, index: int) -> str:
        return describe(self.entries[index])

    def _pass(self) -> None:
        """The handler has repeated one more entry."""
        self._cursor += 1
        self.replaying = self._cursor < self._history

    def _difference(self, asked: str) -> str:
        first = max(0, self._cursor - 3)
        lines = [f"    {i:>4}  {self.describe_at(i)}" for i in range(first, self._cursor)]
        lines.append(f"  - {self._cursor:>4}  {self.describe_at(self._cursor)}")
        return "\n".join(
            [
                "the handler no longer does what its journal tells: its code has changed, "
                "or time, chance or an order is not from ctx.",
                *lines,
                f"  +       the handler {asked}",
                "Deploy code that repeats the journal (the line marked -) and resume the invocation.",
            ]
        )


def open_awakeables(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The awakeables of a journal whose outcomes do not stand in it."""
    pending: dict[int, str] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, AwakeableCreated):
            pending[index] = entry.id
        elif isinstance(entry, OutcomeDelivered):
            pending.pop(entry.of, None)
    return tuple(pending.values())


def describe(entry: Entry) -> str:
    """One entry in words, for differences and for people."""
    match entry:
        case Input():
            return f"input of {entry.service}/{entry.handler}"
        case AwakeableCreated():
            return f"awakeable {entry.id}".rstrip()  # in replay it is asked for without an ID
        case PublishRequested():
            carried = "" if entry.of is None else f" with the awakeable of entry {entry.of}"
            return f"publish to {entry.topic!r}{carried}" + (f", task {entry.task!r}" if entry.task else "")
        case RunRequested():
            return f"run {entry.name!r}"
        case SleepRequested():
            return "sleep"
        case SettleRequested():
            return f"settle {entry.id}: {entry.status}"
        case ClockRead():
            return "now"
        case RunAttemptFailed():
            return f"try {entry.attempt} of entry {entry.of} failed: {entry.error}"
        case OutcomeDelivered():
            return f"outcome of entry {entry.of}"
        case CancellationRaised():
            return f"cancellation: {entry.reason}"


def _signature(entry: Entry) -> tuple[object, ...]:
    """What makes two operations the same; what the handler may vary (a time-out) is not in it."""
    match entry:
        case PublishRequested():
            return (PublishRequested, entry.topic, entry.of, entry.task)
        case RunRequested():
            return (RunRequested, entry.name)
        case SettleRequested():
            return (SettleRequested, entry.id, entry.status)
        case _:
            return (type(entry),)
