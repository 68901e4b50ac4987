"""The set of waits that a handler is blocked on, by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from awakeables.core.outcomes import NULL, Outcome, Resolution
from awakeables.handlers.attempt import AwakeableWait, RunWait, SettleWait, TimerWait, Wait

Arrived = tuple[int, Outcome]
"""The outcome of an operation, by its index."""

SLEPT = Resolution.of_json(NULL)


class Waits:
    """A set of waits, any one of which lets the handler continue.

    Attributes:
        answers: Awakeables that it waits for, with the indexes of their operations.
        timers: Sleeps.
        settles: Completions made by the handler, for whose verdicts it waits.
        runs: Actions that have not started.
        is_acting: Whether an action is being executed.
        only_answers: Whether all waits are for awakeables.
        needs_disk: Whether something can start only once the entries before it are durable.
    """

    __slots__ = ("answers", "is_acting", "needs_disk", "only_answers", "runs", "settles", "timers")

    def __init__(self, blocked_on: Sequence[Wait]) -> None:
        self.answers: dict[str, int] = {}
        self.timers: list[TimerWait] = []
        self.settles: list[SettleWait] = []
        self.runs: list[RunWait] = []
        self.is_acting = False
        for wait in blocked_on:
            if isinstance(wait, AwakeableWait):
                self.answers[wait.awakeable_id] = wait.index
            elif isinstance(wait, TimerWait):
                self.timers.append(wait)
            elif isinstance(wait, SettleWait):
                self.settles.append(wait)
            elif wait.began:
                self.is_acting = True
            else:
                self.runs.append(wait)
        self.only_answers = len(self.answers) == len(blocked_on)
        self.needs_disk = bool(self.settles or self.runs)

    def arrived(
        self, inbox: Mapping[str, Outcome], verdicts: Mapping[int, Outcome | None], now_ms: int
    ) -> list[Arrived]:
        """Return what has arrived: answers in the order of their settlement, then everything else."""
        answers = self.answers
        if len(answers) == 1:
            # The usual case. The inbox has all that has ever arrived: to go through it for each step would
            # take a handler of thousands of answers seconds.
            [(awakeable_id, index)] = answers.items()
            outcome = inbox.get(awakeable_id)
            arrived = [] if outcome is None else [(index, outcome)]
        else:
            arrived = [(answers[key], outcome) for key, outcome in inbox.items() if key in answers]
        if self.only_answers:
            return arrived
        arrived += [(wait.index, SLEPT) for wait in self.timers if wait.until_ms <= now_ms]
        for wait in self.settles:
            verdict = verdicts.get(wait.index)
            if verdict is not None:
                arrived.append((wait.index, verdict))
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
        return self.is_acting or bool(self.settles) or any(run.due_ms is None for run in self.runs)
