"""The set of waits that a handler is blocked on, sorted by what must happen for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from awakeables.core.outcomes import NULL, Outcome, Resolution
from awakeables.handlers.attempt import AwakeableWait, RunWait, SettleWait, TimerWait, Wait

Arrived = tuple[int, Outcome]
"""The outcome of an operation, by its index."""

SLEPT = Resolution.of_json(NULL)


class Waits:
    """Any one of these lets the handler go on.

    Attributes:
        answers: The awakeables whose answers are waited for, with the indexes of their operations.
        timers: Sleeps.
        settles: Completions of the handler's own, whose verdicts are waited for.
        runs: Actions that are not being executed.
        is_acting: Is an action among the waits that is being executed?
        only_answers: Is there nothing but answers?
        needs_disk: Does something start as soon as what came before it is durable?
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
        """What has come: answers in the order in which they were settled, then all else."""
        answers = self.answers
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
        """May an action start, of a journal of which so many entries are on disk?"""
        may = [run for run in self.runs if run.index < durable]
        return bool(may) and any(run.due_ms is None or run.due_ms <= now_ms for run in may)

    def due_ms(self) -> int | None:
        """The instant at which time alone lets the handler go on; None: there is none."""
        if self.only_answers:
            return None
        instants = [wait.until_ms for wait in self.timers]
        instants += [run.due_ms for run in self.runs if run.due_ms is not None]
        return min(instants, default=None)

    def keeps_in_memory(self) -> bool:
        """Will something end that was begun, so that the handler must not be let go?"""
        if self.only_answers:
            return False
        return self.is_acting or bool(self.settles) or any(run.due_ms is None for run in self.runs)
