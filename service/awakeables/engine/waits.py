"""The set of waits that a handler is blocked on, by kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from awakeables.core.journal import Entry, OutcomeDelivered
from awakeables.core.outcomes import NULL, Outcome, Resolution
from awakeables.handlers.attempt import AwakeableWait, RunWait, SettleWait, StateWait, TimerWait, Wait

Arrived = tuple[int, Outcome]
"""The outcome of an operation, by its index."""

SLEPT = Resolution.of_json(NULL)


class Waits:
    """A set of waits, any one of which lets the handler continue.

    Attributes:
        answers: Awakeables that it waits for, with the indexes of their operations.
        timers: Sleeps.
        requests: Completions made by the handler, for whose verdicts it waits, and reads of state.
        runs: Actions that have not started.
        is_acting: Whether an action is being executed.
        only_answers: Whether all waits are for awakeables.
        only_reads: Whether all waits are for state, which is read at once.
        needs_disk: Whether something can start only once the entries before it are durable.
    """

    __slots__ = (
        "_ids",
        "answers",
        "is_acting",
        "needs_disk",
        "only_answers",
        "only_reads",
        "requests",
        "runs",
        "timers",
    )

    def __init__(self, blocked_on: Sequence[Wait]) -> None:
        self.answers: dict[str, int] = {}
        self.timers: list[TimerWait] = []
        self.requests: list[SettleWait | StateWait] = []
        self.runs: list[RunWait] = []
        self.is_acting = False
        reads = 0
        for wait in blocked_on:
            if isinstance(wait, AwakeableWait):
                self.answers[wait.awakeable_id] = wait.index
            elif isinstance(wait, TimerWait):
                self.timers.append(wait)
            elif isinstance(wait, SettleWait | StateWait):
                self.requests.append(wait)
                reads += isinstance(wait, StateWait)
            elif wait.began:
                self.is_acting = True
            else:
                self.runs.append(wait)
        self._ids: dict[int, str] | None = None
        self.only_answers = len(self.answers) == len(blocked_on)
        self.only_reads = 0 < reads == len(blocked_on)
        self.needs_disk = bool(self.requests or self.runs)

    def add(self, more: Waits) -> None:
        """Wait for these, too."""
        self.answers.update(more.answers)
        if self._ids is not None:
            self._ids.update((index, awakeable_id) for awakeable_id, index in more.answers.items())
        self.timers += more.timers
        self.requests += more.requests
        self.runs += more.runs
        self.is_acting = self.is_acting or more.is_acting
        self.only_answers = self.only_answers and more.only_answers
        self.only_reads = self.only_reads and more.only_reads
        self.needs_disk = self.needs_disk or more.needs_disk

    def receive(self, entries: Iterable[Entry], no_longer: Iterable[int] = ()) -> list[str]:
        """Take out those whose outcomes were journaled, and others; return the IDs of their awakeables.

        Args:
            entries: New entries of the journal.
            no_longer: Operations that are not waited for any more.
        """
        if self._ids is None:
            self._ids = {index: awakeable_id for awakeable_id, index in self.answers.items()}
        received = {entry.of for entry in entries if isinstance(entry, OutcomeDelivered)}
        ids = [self._ids.pop(index) for index in received if index in self._ids]
        for index in no_longer:
            received.add(index)
            self.answers.pop(self._ids.pop(index, ""), None)
        for awakeable_id in ids:
            del self.answers[awakeable_id]
        if self.timers:
            self.timers = [wait for wait in self.timers if wait.index not in received]
        if self.requests:
            self.requests = [wait for wait in self.requests if wait.index not in received]
        return ids

    def arrived(
        self, inbox: Mapping[str, Outcome], replies: Mapping[int, Outcome | None], now_ms: int
    ) -> list[Arrived]:
        """Return what has arrived: answers in the order of their settlement, then everything else."""
        answers = self.answers
        if len(answers) == 1:
            # The usual case. The inbox has all that has arrived and was not waited for: to go through it for
            # each step would take a handler of thousands of answers seconds.
            [(awakeable_id, index)] = answers.items()
            outcome = inbox.get(awakeable_id)
            arrived = [] if outcome is None else [(index, outcome)]
        else:
            arrived = [(answers[key], outcome) for key, outcome in inbox.items() if key in answers]
        if self.only_answers:
            return arrived
        due = [wait for wait in self.timers if wait.until_ms <= now_ms]
        arrived += [(wait.index, SLEPT) for wait in sorted(due, key=lambda wait: wait.until_ms)]
        for wait in self.requests:
            reply = replies.get(wait.index)
            if reply is not None:
                arrived.append((wait.index, reply))
        return arrived

    def may_start(self, durable: int, now_ms: int) -> bool:
        """Whether an action may start, when this many journal entries are durable."""
        may = [run for run in self.runs if run.index < durable]
        return bool(may) and any(run.due_ms is None or run.due_ms <= now_ms for run in may)

    def due_ms(self) -> int | None:
        """Return the instant at which the first sleep ends or retry is due; None: there is none."""
        instants = [wait.until_ms for wait in self.timers]
        instants += [run.due_ms for run in self.runs if run.due_ms is not None]
        return min(instants, default=None)

    def keeps_in_memory(self) -> bool:
        """Whether something is in progress for which the handler must stay in memory."""
        if self.is_acting or self.requests:
            return True
        return bool(self.runs) and any(run.due_ms is None for run in self.runs)
