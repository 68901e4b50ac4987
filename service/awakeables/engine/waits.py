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
        timers: Sleeps, by their indexes, as are the following.
        requests: Completions made by the handler, for whose verdicts it waits, and reads of state.
        runs: Actions that are not being executed.
        acting: Those that are.
        only_answers: Whether all waits are for awakeables.
        only_reads: Whether all waits are for state, which is read at once.
    """

    __slots__ = ("_ids", "acting", "answers", "only_answers", "only_reads", "requests", "runs", "timers")

    def __init__(self, blocked_on: Sequence[Wait]) -> None:
        self.answers: dict[str, int] = {}
        self.timers: dict[int, TimerWait] = {}
        self.requests: dict[int, SettleWait | StateWait] = {}
        self.runs: dict[int, RunWait] = {}
        self.acting: set[int] = set()
        self._ids: dict[int, str] | None = None
        for wait in blocked_on:
            if isinstance(wait, AwakeableWait):
                self.answers[wait.awakeable_id] = wait.index
            else:
                self._note(wait)
        self.only_answers = len(self.answers) == len(blocked_on)
        self.only_reads = False if self.only_answers else self._are_reads()

    def _note(self, wait: TimerWait | SettleWait | StateWait | RunWait) -> None:
        index = wait.index
        if isinstance(wait, TimerWait):
            self.timers[index] = wait
        elif not isinstance(wait, RunWait):
            self.requests[index] = wait
        elif wait.began:
            self.runs.pop(index, None)
            self.acting.add(index)
        else:
            self.acting.discard(index)
            self.runs[index] = wait

    def add(self, more: Sequence[Wait]) -> None:
        """Wait for these, too, or for what has changed of them."""
        for wait in more:
            if isinstance(wait, AwakeableWait):
                self.answers[wait.awakeable_id] = wait.index
                if self._ids is not None:
                    self._ids[wait.index] = wait.awakeable_id
            else:
                self._note(wait)
        self._classify()

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
        for index in received:
            self.timers.pop(index, None)
            self.requests.pop(index, None)
            self.runs.pop(index, None)
        self.acting -= received
        self._classify()
        return ids

    def _classify(self) -> None:
        self.only_answers = not (self.timers or self.requests or self.runs or self.acting)
        self.only_reads = not self.only_answers and self._are_reads()

    def _are_reads(self) -> bool:
        if not self.requests or self.answers or self.timers or self.runs or self.acting:
            return False
        return all(isinstance(wait, StateWait) for wait in self.requests.values())

    @property
    def needs_disk(self) -> bool:
        """Whether something can start only once the entries before it are durable."""
        return bool(self.requests or self.runs)

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
        due = [wait for wait in self.timers.values() if wait.until_ms <= now_ms]
        arrived += [(wait.index, SLEPT) for wait in sorted(due, key=lambda wait: wait.until_ms)]
        for index in self.requests:
            reply = replies.get(index)
            if reply is not None:
                arrived.append((index, reply))
        return arrived

    def may_start(self, durable: int, now_ms: int) -> bool:
        """Whether an action may start, when this many journal entries are durable."""
        return any(
            run.index < durable and (run.due_ms is None or run.due_ms <= now_ms) for run in self.runs.values()
        )

    def due_ms(self, *, runs: bool) -> int | None:
        """Return the instant at which the first sleep ends or retry is due; None: there is none.

        Args:
            runs: Whether an action may begin before another one ends.
        """
        instants = [wait.until_ms for wait in self.timers.values()]
        if runs:
            instants += [run.due_ms for run in self.runs.values() if run.due_ms is not None]
        return min(instants, default=None)

    def keeps_in_memory(self) -> bool:
        """Whether something is in progress for which the handler must stay in memory."""
        if self.acting or self.requests:
            return True
        return bool(self.runs) and any(run.due_ms is None for run in self.runs.values())
