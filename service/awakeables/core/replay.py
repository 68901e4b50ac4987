"""Replay: the same operations in the same order, outcomes in the order of the journal (J2).

`Replay` walks the history once. While history is left, the handler must ask for what is recorded there;
past its end, what it asks for is new, and is appended for the next commit.
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
    """One pass of a handler over its journal.

    Attributes:
        input: The journal's first entry.
        entries: The journal, new entries at its end.
        replaying: Whether history is left that the handler has not repeated yet.
        outcomes: The outcomes that the handler has received so far, by the operation's index.
        failed_attempts: The last failed attempt of each run that will be retried.
    """

    def __init__(self, history: Sequence[Entry]) -> None:
        """Start after the input, which must be the first entry."""
        self.entries = list(history)
        first = self.entries[0]
        assert isinstance(first, Input)
        self.input = first
        self._history = len(self.entries)
        self.replaying = self._history > 1
        self._cursor = 1
        self.outcomes: dict[int, Outcome] = {}
        self.failed_attempts: dict[int, RunAttemptFailed] = {}

    def ask(self, op: Op) -> tuple[int, Op]:
        """Match an operation against the history, or append it as new.

        Returns:
            Its index, and the operation to use: as it was first recorded, with the first ID or instant.

        Raises:
            ReplayMismatch: The history has another operation here.
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
        """Take the next outcome from the history, for a handler that awaits one of `waited`.

        Returns:
            The index of the operation that ended, whose outcome is now in `outcomes`; or the
            cancellation to raise here; or None at the end of the history: the outcome must come from
            outside.

        Raises:
            ReplayMismatch: In the history the handler did not wait here.
        """
        while self.replaying:
            entry = self.entries[self._cursor]
            match entry:
                case RunAttemptFailed() if entry.of in waited:
                    self.failed_attempts[entry.of] = entry
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
        """Check that a handler that ends has repeated its whole history.

        Raises:
            ReplayMismatch: History is left.
        """
        if self.replaying:
            raise ReplayMismatch(self._difference("ends"))

    def deliver(self, index: int, outcome: Outcome) -> None:
        """Append an outcome that came from outside, at the point where the handler receives it."""
        self.outcomes[index] = outcome
        self.entries.append(OutcomeDelivered(of=index, outcome=outcome))

    def retry(self, failed: RunAttemptFailed) -> None:
        """Append a failed attempt of a run."""
        self.failed_attempts[failed.of] = failed
        self.entries.append(failed)

    def cancel(self, raised: CancellationRaised) -> None:
        """Append that the invocation's cancellation is raised at this await."""
        self.entries.append(raised)

    @property
    def cancelled(self) -> bool:
        """Whether the journal has the cancellation, even if the handler has not reached it yet."""
        return any(isinstance(entry, CancellationRaised) for entry in self.entries)

    def open_awakeables(self) -> tuple[str, ...]:
        """The awakeables that were created and whose outcomes the handler has not received."""
        pending = []
        for index, entry in enumerate(self.entries):
            if isinstance(entry, AwakeableCreated) and index not in self.outcomes:
                pending.append(entry.id)
        return tuple(pending)

    def describe_at(self, index: int) -> str:
        return describe(self.entries[index])

    def _pass(self) -> None:
        """Advance past an entry that the handler has repeated."""
        self._cursor += 1
        self.replaying = self._cursor < self._history

    def _difference(self, asked: str) -> str:
        first = max(0, self._cursor - 3)
        lines = [f"    {i:>4}  {self.describe_at(i)}" for i in range(first, self._cursor)]
        lines.append(f"  - {self._cursor:>4}  {self.describe_at(self._cursor)}")
        return "\n".join(
            [
                "the handler no longer does what its journal says: its code has changed, "
                "or it takes the time, randomness or an iteration order from elsewhere than ctx.",
                *lines,
                f"  +       the handler {asked}",
                "Deploy code that repeats the journal (the line marked -), then resume the invocation.",
            ]
        )


def open_awakeables(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The awakeables of a journal that has no outcomes for them."""
    pending: dict[int, str] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, AwakeableCreated):
            pending[index] = entry.id
        elif isinstance(entry, OutcomeDelivered):
            pending.pop(entry.of, None)
    return tuple(pending.values())


def describe(entry: Entry) -> str:
    """One entry in words, for error messages and for people."""
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
            return f"attempt {entry.attempt} of entry {entry.of} failed: {entry.error}"
        case OutcomeDelivered():
            return f"outcome of entry {entry.of}"
        case CancellationRaised():
            return f"cancellation: {entry.reason}"


def _signature(entry: Entry) -> tuple[object, ...]:
    """What must be equal for two operations to match; a handler may vary the rest, such as a time-out."""
    match entry:
        case PublishRequested():
            return (PublishRequested, entry.topic, entry.of, entry.task)
        case RunRequested():
            return (RunRequested, entry.name)
        case SettleRequested():
            return (SettleRequested, entry.id, entry.status)
        case _:
            return (type(entry),)
