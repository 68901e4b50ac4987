"""Guards taken away, one at a time: each must make the simulation fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.awakeables import AwakeableRow, Completion
from awakeables.core.deadletters import DeadLetter
from awakeables.core.decide import settling
from awakeables.core.invocations import Invocation, Suspend
from awakeables.core.outcomes import Resolution
from awakeables.core.replay import Replay
from awakeables.core.rows import Rows
from awakeables.engine.horizon import Horizon
from awakeables.engine.runner import Runner
from awakeables.engine.settlement import PayloadValidator
from awakeables.engine.waits import Waits
from awakeables.handlers.local import LocalAttempt
from awakeables.store.membership import LocalMembership


@contextmanager
def no_owner_fence() -> Iterator[None]:
    """J1: a stale owner commits."""

    def owns(row: Invocation, **_: Any) -> bool:
        return row.status == "running"

    with mock.patch.object(invocations, "owns", owns):
        yield


@contextmanager
def killed_and_still_owned() -> Iterator[None]:
    """Hard case 4: who runs what was killed commits on."""
    kill, owns = invocations.kill, invocations.owns

    def careless(row: Invocation, *, now_ms: int) -> Invocation | None:
        killed = kill(row, now_ms=now_ms)
        return killed and replace(killed, owner=row.owner)

    def loose(row: Invocation, **of: Any) -> bool:
        return owns(replace(row, status="running"), **of)

    with mock.patch.object(invocations, "kill", careless), mock.patch.object(invocations, "owns", loose):
        yield


@contextmanager
def last_answer_wins() -> Iterator[None]:
    """A1: settlement without its condition."""
    settle = awakeables.settle

    def careless(row: AwakeableRow, completion: Any, **kwargs: Any) -> Any:
        return settle(replace(row, state="pending", settled_by=None), completion, **kwargs)

    with mock.patch.object(awakeables, "settle", careless):
        yield


@contextmanager
def suspend_without_looking() -> Iterator[None]:
    """O3: suspending although something was told meanwhile."""
    advance = invocations.advance

    def careless(row: Invocation, step: Any, **kwargs: Any) -> Invocation:
        if isinstance(step, Suspend) and step.wake != -1:
            step = replace(step, wake=row.wake)
        return advance(row, step, **kwargs)

    with mock.patch.object(invocations, "advance", careless):
        yield


@contextmanager
def settle_without_waking() -> Iterator[None]:
    """Hard case 1: the wake-up is left to the hint."""

    def careless(row: Invocation, **_: Any) -> Invocation:
        return replace(row, wake=row.wake + 1)

    with mock.patch.object(invocations, "wake", careless):
        yield


@contextmanager
def no_offset_fence() -> Iterator[None]:
    """K1: a batch is settled again, and no book tells that it was."""
    with (
        mock.patch.object(settling, "is_next", return_value=True),
        mock.patch.object(awakeables, "_verdict_before", return_value=None),
    ):
        yield


@contextmanager
def read_again_and_counted_again() -> Iterator[None]:
    """K1: what an operator has read again is taken for news."""
    settle = awakeables.settle

    def careless(row: AwakeableRow, completion: Any, **kwargs: Any) -> Any:
        return settle(row, completion, **kwargs | {"again": False})

    with (
        mock.patch.object(awakeables, "settle", careless),
        mock.patch.object(awakeables, "_verdict_before", return_value=None),
    ):
        yield


@contextmanager
def no_edge_check() -> Iterator[None]:
    """A4: whatever comes is taken."""
    validate = PayloadValidator.validate

    async def careless(validator: Any, completions: Sequence[Completion]) -> list[Completion]:
        validated = await validate(validator, completions)
        for place, given in enumerate(completions):
            expected = await validator.expectation(given.awakeable_id)
            if given.refusal is None and validated[place].refusal is not None and expected is not None:
                validated[place] = replace(given, checked=expected.schema_hash)
        return validated

    with mock.patch.object(PayloadValidator, "validate", careless):
        yield


@contextmanager
def effects_before_their_commit() -> Iterator[None]:
    """A3: the hand-off does not wait for the row."""
    commit = Runner._commit

    def careless(runner: Any, step: Any, progress: Any, **last: Any) -> None:
        if progress is not None:
            runner._pool.publish(progress.effects)
        commit(runner, step, progress, **last)

    with mock.patch.object(Runner, "_commit", careless):
        yield


@contextmanager
def journal_after_the_next_run() -> Iterator[None]:
    """J3: a run's result is kept in memory only until something else is committed."""
    progress = LocalAttempt._progress
    dropped: set[tuple[str, int]] = set()

    def careless(attempt: Any, ended: Any) -> Any:
        entries = attempt._execution.replay.entries
        result = (attempt._origin.invocation_id, len(entries))
        # Once for each result: an attempt that is rebuilt for every step would never get past it.
        if attempt._owes and result not in dropped:
            dropped.add(result)
            entries.pop()
        return progress(attempt, ended)

    with mock.patch.object(LocalAttempt, "_progress", careless):
        yield


@contextmanager
def suspended_while_an_action_is_executed() -> Iterator[None]:
    """O3: nothing wakes a handler that waits for its own process only."""
    on_blocked = Runner._on_blocked

    def careless(runner: Any, waits: Any) -> bool:
        runner._running = 0
        return on_blocked(runner, waits)

    with (
        mock.patch.object(Runner, "_on_blocked", careless),
        mock.patch.object(Waits, "keeps_in_memory", return_value=False),
    ):
        yield


@contextmanager
def outcome_of_an_action_forgotten() -> Iterator[None]:
    """J3: an action whose outcome was journaled is executed again, once."""
    take_in = LocalAttempt._take_in
    forgotten: set[tuple[str, int]] = set()

    def careless(attempt: Any, index: int, acted: Any, *, stop: bool) -> Any:
        key = (attempt._origin.invocation_id, index)
        if key in forgotten or not isinstance(acted, Resolution):
            return take_in(attempt, index, acted, stop=stop)
        forgotten.add(key)
        attempt._execution.replay.deliver(index, acted)
        return attempt._progress(None)

    with mock.patch.object(LocalAttempt, "_take_in", careless):
        yield


@contextmanager
def commit_forgotten_after_a_lost_acknowledgement() -> Iterator[None]:
    """Dead letters are buried once per read, not once per record."""

    def careless(letters: Iterable[DeadLetter], rows: Rows) -> list[DeadLetter]:
        return list({letter.source: letter for letter in letters}.values())

    with (
        mock.patch.object(settling, "new_letters", careless),
        mock.patch.object(settling, "is_next", return_value=True),
    ):
        yield


@contextmanager
def cancelled_and_not_told() -> Iterator[None]:
    """Hard case 12: the mark is left for a hint that never comes."""
    news = Runner._news

    def careless(runner: Any) -> Any:
        runner._raised = True
        told = news(runner)
        return told and replace(told, cancel=False)

    with mock.patch.object(Runner, "_news", careless):
        yield


@contextmanager
def cancelled_in_every_attempt() -> Iterator[None]:
    """Hard case 12: what the journal tells of the cancellation is not looked at."""
    with mock.patch.object(Replay, "cancelled", False):
        yield


@contextmanager
def read_a_moment_ago_is_read_now() -> Iterator[None]:
    """Hard case 5: what comes while the process is stopped is taken for read."""
    held_back_to_ms = Horizon.held_back_to_ms

    def careless(horizon: Any) -> int:
        now_ms: int = horizon._clock.now_ms()
        at_ms = held_back_to_ms(horizon)
        return now_ms if now_ms - at_ms <= 1000 else at_ms

    with mock.patch.object(Horizon, "held_back_to_ms", careless):
        yield


MUTATIONS: tuple[Callable[[], Any], ...] = (
    no_owner_fence,
    killed_and_still_owned,
    last_answer_wins,
    suspend_without_looking,
    settle_without_waking,
    no_offset_fence,
    read_again_and_counted_again,
    no_edge_check,
    effects_before_their_commit,
    journal_after_the_next_run,
    suspended_while_an_action_is_executed,
    outcome_of_an_action_forgotten,
    commit_forgotten_after_a_lost_acknowledgement,
    cancelled_and_not_told,
    cancelled_in_every_attempt,
    read_a_moment_ago_is_read_now,
)


# Of several instances.


@contextmanager
def nobody_is_declared_dead() -> Iterator[None]:
    """O3: what a dead instance owned is never taken over."""
    beat = LocalMembership.beat

    async def careless(self: LocalMembership, instance_id: str, *, timeout_ms: int) -> Any:
        return await beat(self, instance_id, timeout_ms=10**12)

    with mock.patch.object(LocalMembership, "beat", careless):
        yield


MUTATIONS_OF_SEVERAL: tuple[Callable[[], Any], ...] = (
    nobody_is_declared_dead,
    no_owner_fence,
    suspend_without_looking,
    no_offset_fence,
)
