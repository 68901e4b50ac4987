"""Replay: the same operations in the same order, outcomes in the order of the journal (J2).

`Replay` walks the history once. While history is left, the handler must ask for what is recorded there;
past its end, what it asks for is new, and is appended for the next commit.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import TypeVar, cast

from awakeables.core.journal import (
    WAITS,
    AttachRequested,
    AwakeableCreated,
    BranchInterrupted,
    CallOffRequested,
    CallRefused,
    CallRequested,
    CancellationRaised,
    ClockRead,
    Entry,
    Input,
    Operation,
    OutcomeDelivered,
    ProgressRead,
    PromiseCreated,
    PromisePeeked,
    PublishRequested,
    RunAttemptFailed,
    RunEnded,
    RunRequested,
    SendRequested,
    SettleRequested,
    SleepRequested,
    StateCleared,
    StateNamesRead,
    StateRead,
    StateSet,
    TimeoutRequested,
    VersionChosen,
    wait_of,
)
from awakeables.core.outcomes import Outcome
from awakeables.core.records import rfc3339
from awakeables.errors import ReplayMismatch

Op = TypeVar(
    "Op",
    AwakeableCreated,
    ProgressRead,
    PromisePeeked,
    PublishRequested,
    RunRequested,
    SleepRequested,
    SettleRequested,
    CallRequested,
    SendRequested,
    CallRefused,
    AttachRequested,
    TimeoutRequested,
    CallOffRequested,
    StateRead,
    StateNamesRead,
    StateSet,
    StateCleared,
    ClockRead,
)


class Replay:
    """One pass of a handler over its journal.

    Attributes:
        input: The journal's first entry.
        entries: The journal, new entries at its end.
        replaying: Whether history is left that the handler has not repeated yet.
        outcomes: The outcomes that the handler has received so far, by the operation's index.
        order: How many outcomes it had received before each of them.
        ran: The outcomes of runs that ended while the handler did not wait for them.
        failed_attempts: The last failed attempt of each run that will be retried.
    """

    def __init__(self, history: Sequence[Entry]) -> None:
        """Start after the input, which must be the first entry, and the promises."""
        self.entries = list(history)
        first = self.entries[0]
        assert isinstance(first, Input)
        self.input = first
        self._history = len(self.entries)
        self._cursor = 1
        while self._cursor < self._history and isinstance(self.entries[self._cursor], _BEFORE_ALL):
            self._cursor += 1
        self.replaying = self._cursor < self._history
        self._versions: dict[str, int] | None = None
        self.outcomes: dict[int, Outcome] = {}
        self.order: dict[int, int] = {}
        self.ran: dict[int, Outcome] = {}
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
            raise ReplayMismatch(self.difference(f"asks for: {describe(op)}"))
        self._pass()
        return index, cast("Op", recorded)

    def expects(self, op: Operation) -> bool:
        """Whether the handler is being replayed, and its history goes on with this operation."""
        return self.replaying and _signature(self.entries[self._cursor]) == _signature(op)

    def version(self, name: str, current: int) -> int:
        """The version of a part of the code that the invocation has; the first answer is kept.

        It is `current` at the end of the history, and 1 within it: the code that wrote what comes next did
        not ask. Both are appended, so that code that asks at another place gets the same.
        """
        if self._versions is None:
            self._versions = markers_in(self.entries)
        version = self._versions.get(name)
        if version is None:
            version = self._versions[name] = 1 if self.replaying else current
            self.entries.append(VersionChosen(name=name, version=version))
        return version

    def recall(
        self, waited: Container[int], cancelled: Container[int | None] = ()
    ) -> int | CancellationRaised | BranchInterrupted | None:
        """Take the next outcome from the history, for a handler that awaits one of `waited`.

        Args:
            waited: The operations that the handler awaits.
            cancelled: The branches that wait for actions although they are cancelled.

        Returns:
            The index of the operation that ended, whose outcome is now in `outcomes`; or the
            cancellation to raise here; or the branch to interrupt; or None at the end of the history: the
            outcome must come from outside.

        Raises:
            ReplayMismatch: In the history the handler did not wait here.
        """
        if self.replaying:
            entry = self.entries[self._cursor]
            match entry:
                case OutcomeDelivered() if entry.of in waited:
                    self.receive(entry.of, entry.outcome)
                    self._pass()
                    return entry.of
                case CancellationRaised():
                    self._pass()
                    return entry
                case BranchInterrupted() if entry.branch in cancelled:
                    self._pass()
                    return entry
                case _:
                    names = ", ".join(self.describe_at(i) for i in range(self._history) if i in waited)
                    raise ReplayMismatch(self.difference(f"awaits: {names}"))
        return None

    def finish(self) -> None:
        """Check that a handler that ends has repeated its whole history.

        Raises:
            ReplayMismatch: History is left.
        """
        if self.replaying:
            raise ReplayMismatch(self.difference("ends"))

    def deliver(self, index: int, outcome: Outcome) -> None:
        """Append an outcome that came from outside, at the point where the handler receives it."""
        self.outcomes[index] = outcome
        self.order[index] = len(self.order)
        self.entries.append(OutcomeDelivered(of=index, outcome=outcome))

    def receive(self, index: int, outcome: Outcome) -> None:
        """Note an outcome that the handler receives here, and that the journal already tells of."""
        self.outcomes[index] = outcome
        self.order[index] = len(self.order)

    def end_run(self, index: int, outcome: Outcome) -> None:
        """Append the outcome of a run that the handler does not wait for."""
        self.ran[index] = outcome
        self.entries.append(RunEnded(of=index, outcome=outcome))

    def retry(self, failed: RunAttemptFailed) -> None:
        """Append a failed attempt of a run."""
        self.failed_attempts[failed.of] = failed
        self.entries.append(failed)

    def cancel(self, raised: CancellationRaised | BranchInterrupted) -> None:
        """Append that the invocation's cancellation, or that of a branch, is raised at this await."""
        self.entries.append(raised)

    @property
    def cancelled(self) -> bool:
        """Whether the journal has the cancellation, even if the handler has not reached it yet."""
        return any(isinstance(entry, CancellationRaised) for entry in self.entries)

    def open_awakeables(self) -> tuple[str, ...]:
        """The awakeables, and waits for calls, whose outcomes the handler has not received."""
        pending = []
        for index, entry in enumerate(self.entries):
            if type(entry) in WAITS and index not in self.outcomes:
                wait = wait_of(entry)
                assert wait is not None, entry
                pending.append(wait)
        return tuple(pending)

    def describe_at(self, index: int) -> str:
        return describe(self.entries[index])

    def difference(self, asked: str) -> str:
        """What the handler did instead of the next entry of its history, with the entries before it."""
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

    def _pass(self) -> None:
        """Advance past an entry that the handler has repeated, and past those that it does not ask for."""
        self._cursor += 1
        while self._cursor < self._history:
            entry = self.entries[self._cursor]
            if type(entry) is RunEnded:
                self.ran[entry.of] = entry.outcome
            elif type(entry) is RunAttemptFailed:
                self.failed_attempts[entry.of] = entry
            elif type(entry) is not VersionChosen:
                break
            self._cursor += 1
        self.replaying = self._cursor < self._history


_BEFORE_ALL = (PromiseCreated, VersionChosen)
"""What may stand between the input and the first operation."""


def markers_in(entries: Iterable[Entry]) -> dict[str, int]:
    """The versions that a journal, or a part of it, records, by name."""
    return {entry.name: entry.version for entry in entries if type(entry) is VersionChosen}


def cut_problem(entries: Sequence[Entry], last: int) -> str | None:
    """Why a journal can't be cut after an entry, for another invocation to go on from there; None: it can.

    Everything that an operation before the cut waits for must have been received before it, too, because its
    row is the older invocation's.
    """
    if not 0 <= last < len(entries):
        return f"its journal has the entries 0 to {len(entries) - 1}"
    possible, pending = 0, set[int]()
    for index, entry in enumerate(entries[: last + 1]):
        if isinstance(entry, CancellationRaised):
            return f"it was cancelled at entry {index}; the last entry that is possible is {possible}"
        if isinstance(entry, StateRead | StateSet | StateCleared | StateNamesRead):
            # The key has been another's since, so what was read is not what is there.
            return f"{describe(entry)} uses the state there; the last entry that is possible is {possible}"
        if type(entry) in WAITS or isinstance(entry, SettleRequested):
            pending.add(index)
        elif isinstance(entry, OutcomeDelivered):
            pending.discard(entry.of)
        if not pending:
            possible = index
    if not pending:
        return None
    first = describe(entries[min(pending)])
    return f"{first} waits there for what comes later; the last entry that is possible is {possible}"


def open_awakeables(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The awakeables, and waits for calls, of a journal that has no outcomes for them."""
    pending: dict[int, str] = {}
    for index, entry in enumerate(entries):
        wait = wait_of(entry)
        if wait is not None:
            pending[index] = wait
        elif isinstance(entry, OutcomeDelivered):
            pending.pop(entry.of, None)
    return tuple(pending.values())


def describe(entry: Entry) -> str:  # noqa: C901 - one line per kind of entry
    """One entry in words, for error messages and for people."""
    match entry:
        case Input():
            version = f", version {entry.version}" if entry.version > 1 else ""
            tick = "" if entry.scheduled_ms is None else f" at the tick {rfc3339(entry.scheduled_ms)}"
            return f"input of {entry.service}/{entry.handler}{version}{tick}"
        case AwakeableCreated():
            return f"awakeable {entry.id}".rstrip()  # in replay it is asked for without an ID
        case PromiseCreated():
            return f"promise {entry.name!r}"
        case PromisePeeked():
            return f"peek at promise {entry.name!r}"
        case ProgressRead():
            return f"progress of entry {entry.of}"
        case PublishRequested():
            carried = "" if entry.of is None else f" with the awakeable of entry {entry.of}"
            return f"publish to {entry.topic!r}{carried}" + (f", task {entry.task!r}" if entry.task else "")
        case RunRequested():
            return f"run {entry.name!r}"
        case SleepRequested():
            return "sleep"
        case SettleRequested():
            return f"settle {entry.id}: {entry.status}"
        case CallRequested() | SendRequested():
            verb = "call" if isinstance(entry, CallRequested) else "send"
            keyed = "" if entry.idempotency_key is None else f" with the key {entry.idempotency_key!r}"
            at = entry.service if entry.key is None else f"{entry.service}/{entry.key}"
            return f"{verb} {at}/{entry.handler}{keyed} {entry.id}".rstrip()
        case CallRefused():
            return f"call {entry.service}/{entry.handler}, refused: {entry.reason}"
        case AttachRequested():
            return f"attach {entry.id}"
        case TimeoutRequested():
            return "time-out"
        case CallOffRequested():
            return f"cancel {entry.id}" if entry.of is None else f"cancel entry {entry.of}"
        case StateRead() | StateSet():
            return f"{'get' if isinstance(entry, StateRead) else 'set'} {entry.name!r}"
        case StateNamesRead():
            return "keys"
        case StateCleared():
            return "clear" if entry.name is None else f"clear {entry.name!r}"
        case VersionChosen():
            return f"version of {entry.name!r}: {entry.version}"
        case RunEnded():
            return f"entry {entry.of} ended, unawaited"
        case ClockRead():
            return "now"
        case RunAttemptFailed():
            return f"attempt {entry.attempt} of entry {entry.of} failed: {entry.error}"
        case OutcomeDelivered():
            return f"outcome of entry {entry.of}"
        case CancellationRaised():
            return f"cancellation: {entry.reason}"
        case BranchInterrupted():
            return f"{'the handler' if entry.branch is None else f'branch {entry.branch}'} was interrupted"


def _signature(entry: Entry) -> tuple[object, ...]:
    """What must be equal for two operations to match; a handler may vary the rest, such as a time-out."""
    match entry:
        case PublishRequested():
            return (PublishRequested, entry.topic, entry.of, entry.task)
        case RunRequested():
            return (RunRequested, entry.name)
        case SettleRequested():
            return (SettleRequested, entry.id, entry.status)
        case CallRequested() | SendRequested():
            return (type(entry), entry.service, entry.handler, entry.idempotency_key, entry.key)
        case CallRefused():
            return (CallRefused, entry.service, entry.handler)
        case AttachRequested():
            return (AttachRequested, entry.id)
        case StateRead() | StateSet() | StateCleared() | PromisePeeked():
            return (type(entry), entry.name)
        case CallOffRequested():
            return (CallOffRequested, entry.of, entry.id)
        case ProgressRead():
            return (ProgressRead, entry.of)
        case _:
            return (type(entry),)
