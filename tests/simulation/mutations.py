"""Guards taken away, one at a time: each must make the simulation fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock
from unittest.mock import AsyncMock

from msgspec.structs import replace

from awakeables import api
from awakeables.core import awakeables, invocations, rows
from awakeables.core.awakeables import PROMISE, AwakeableRow, Completion
from awakeables.core.commands import Begin, BeginBatch, Fire, NewCall
from awakeables.core.deadletters import DeadLetter
from awakeables.core.decide import (
    advancing,
    calling,
    claiming,
    decisions,
    operating,
    queueing,
    scheduling,
    settling,
    subscribing,
)
from awakeables.core.invocations import KILLED, Invocation, Suspend
from awakeables.core.outcomes import Resolution
from awakeables.core.replay import Replay
from awakeables.core.replies import Fired, KeyConflict
from awakeables.core.rows import Draft, Rows
from awakeables.engine.horizon import Horizon
from awakeables.engine.runner import Runner
from awakeables.engine.schedules import Schedules
from awakeables.engine.settlement import PayloadValidator
from awakeables.engine.subscriptions import Subscriptions
from awakeables.engine.waits import Waits
from awakeables.handlers import state as states
from awakeables.handlers.local import LocalAttempt
from awakeables.handlers.saga import Saga, Shield
from awakeables.store.membership import LocalMembership
from support.ids import new_id


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


@contextmanager
def the_end_of_a_call_tells_nobody() -> Iterator[None]:
    """O3: a caller waits for a call that has ended."""
    with mock.patch.object(advancing, "on_end"):
        yield


@contextmanager
def calls_are_left_behind() -> Iterator[None]:
    """Hard case 4: the calls of an invocation that has ended go on."""
    with mock.patch.object(calling, "cancel_call"):
        yield


@contextmanager
def a_kill_spares_the_calls() -> Iterator[None]:
    """Hard case 4: the same of one that was killed."""

    def careless(draft: Draft, killed: Invocation) -> None:
        for wait in draft.waits_of(killed.id):
            calling.abandon(draft, replace(wait, owned=False))

    with mock.patch.object(operating, "kill_calls", careless):
        yield


@contextmanager
def attached_too_late() -> Iterator[None]:
    """O3: who waits for an invocation that has ended already is not told so."""
    wait_for_call = calling.wait_for_call

    def careless(*args: Any) -> None:
        wait_for_call(*args)

    with mock.patch.object(advancing, "wait_for_call", careless):
        yield


@contextmanager
def called_again_after_a_lost_acknowledgement() -> Iterator[None]:
    """A commit that is sent again draws new IDs for its calls."""
    create_calls = calling.create_calls

    def careless(draft: Draft, calls: Sequence[NewCall], caller: str, build: str) -> None:
        create_calls(draft, calls, caller, build)
        for call in calls:
            again = replace(call, id=new_id("inv", at_ms=draft.now_ms, entropy=call.id[-10:].encode()))
            create_calls(draft, [replace(again, idempotency=None)], caller, build)

    with mock.patch.object(advancing, "create_calls", careless):
        yield


@contextmanager
def a_key_is_not_passed_on() -> Iterator[None]:
    """O3: who comes next waits for a hint that nobody gives."""
    with mock.patch.object(queueing, "_pass_on", lambda _draft, queue, _ticket: queue):
        yield


@contextmanager
def a_killed_one_keeps_its_key() -> Iterator[None]:
    """O1: only who ends by itself leaves the queue."""
    leave = queueing.leave

    def careless(draft: Draft, row: Invocation) -> None:
        if row.result != KILLED:
            leave(draft, row)

    with mock.patch.object(calling, "leave", careless):
        yield


@contextmanager
def two_hold_one_key() -> Iterator[None]:
    """O1: whoever comes runs at once."""
    with mock.patch.object(invocations, "queue", lambda row, **_: row):
        yield


@contextmanager
def a_delayed_one_takes_no_place() -> Iterator[None]:
    """O1: it runs when its time has come, whoever holds the key."""
    with mock.patch.object(claiming, "DELAYED", -1):
        yield


@contextmanager
def circles_are_not_looked_for() -> Iterator[None]:
    """O3: two keys wait for each other for ever."""
    with mock.patch.object(queueing, "circle", return_value=None):
        yield


@contextmanager
def state_is_read_again_in_replay() -> Iterator[None]:
    """J2: what a handler has set is forgotten by its next attempt."""
    with mock.patch.object(states, "_note"):
        yield


@contextmanager
def a_shield_is_none() -> Iterator[None]:
    """Hard case 12: a cancellation is raised in a block that is shielded."""
    with (
        mock.patch.object(Shield, "__aenter__", AsyncMock()),
        mock.patch.object(Shield, "__aexit__", AsyncMock()),
    ):
        yield


@contextmanager
def nothing_is_undone() -> Iterator[None]:
    """J3: a saga that fails leaves what it did."""
    with mock.patch.object(Saga, "_undo_all", AsyncMock(return_value=[])):
        yield


@contextmanager
def a_journal_is_cut_anywhere() -> Iterator[None]:
    """J2: a restarted invocation waits for what only the older one can receive."""
    with mock.patch.object(api, "cut_problem", return_value=None):
        yield


@contextmanager
def a_batch_of_records_is_begun_again() -> Iterator[None]:
    """K1: the fence of a subscription is not looked at."""
    with mock.patch.object(subscribing, "is_next", return_value=True):
        yield


@contextmanager
def what_a_full_queue_has_left_is_passed_over() -> Iterator[None]:
    """K1: the position goes to the end of the batch, of which only the first records were used."""
    begin_batch = subscribing.begin_batch

    def careless(command: Any, rows: Rows, now_ms: int, changes: Any) -> Any:
        begun = begin_batch(command, rows, now_ms, changes)
        place = (command.fence.subscription, command.fence.topic, command.fence.partition)
        if getattr(begun, "full", None) is not None:
            held = rows.positions[place]
            changes.put_position(held, replace(held, next=command.fence.next))  # type: ignore[type-var]
            return replace(begun, next=command.fence.next)
        return begun

    with mock.patch.dict(decisions.BY_KEY, {BeginBatch: careless}):
        yield


@contextmanager
def a_failed_record_leaves_nothing() -> Iterator[None]:
    """K2: the end of an invocation makes no dead letter of its record."""
    with mock.patch.object(Subscriptions, "failed", return_value=None):
        yield


@contextmanager
def a_run_with_another_input_is_begun() -> Iterator[None]:
    """O1: of a workflow's key, one run for each input."""
    begin = advancing.begin

    def careless(command: Begin, rows: Rows, now_ms: int, changes: Any) -> Any:
        begun = begin(command, rows, now_ms, changes)
        if command.workflow is not None and isinstance(begun, KeyConflict):
            return begin(replace(command, idempotency=None), rows, now_ms, changes)
        return begun

    with mock.patch.dict(decisions.BY_KEY, {Begin: careless}):
        yield


@contextmanager
def a_promise_is_settled_again() -> Iterator[None]:
    """A1: settlement without its condition, of the promises of workflows only."""
    settle = awakeables.settle

    def careless(row: AwakeableRow, completion: Any, **kwargs: Any) -> Any:
        if row.source_utf8 == PROMISE:
            row = replace(row, state="pending", settled_by=None)
        return settle(row, completion, **kwargs)

    with mock.patch.object(awakeables, "settle", careless):
        yield


@contextmanager
def a_promise_wakes_nobody() -> Iterator[None]:
    """O3: a run waits for a promise that is settled."""
    with mock.patch.object(settling._Batch, "_settle_waits"):
        yield


@contextmanager
def a_tick_begins_beside_the_one_before() -> Iterator[None]:
    """H8: whether the last invocation of a schedule is open is not looked at."""
    with mock.patch.object(scheduling, "_is_open", return_value=False):
        yield


@contextmanager
def a_version_is_forgotten() -> Iterator[None]:
    """J2: each build that asks gets its own version."""
    with mock.patch.object(Replay, "version", lambda _replay, _name, current: current):
        yield


@contextmanager
def a_tick_is_marked_before_it_begins() -> Iterator[None]:
    """H8: the row moves in a commit of its own: what is lost in between begins nothing."""
    fire = Schedules._fire

    async def careless(self: Any, of: Any, row: Any) -> float:
        submit = self._committer.submit

        async def apart(command: Fire) -> Any:
            moved = await submit(replace(command, ticks=()))
            for tick in command.ticks if isinstance(moved, Fired) else ():
                await submit(tick.begin)
            return moved

        with mock.patch.object(self, "_committer", mock.Mock(submit=apart)):
            return await fire(self, of, row)

    with mock.patch.object(Schedules, "_fire", careless):
        yield


@contextmanager
def what_was_not_asked_is_of_today() -> Iterator[None]:
    """J2: an invocation that has come past the place gets the current version, and keeps it."""
    version = Replay.version

    def careless(replay: Replay, name: str, current: int) -> int:
        with mock.patch.object(replay, "replaying", False):
            return version(replay, name, current)

    with mock.patch.object(Replay, "version", careless):
        yield


@contextmanager
def a_late_answer_is_not_noted() -> Iterator[None]:
    """L1: each late answer begins the handler."""
    with mock.patch.object(awakeables, "with_late_invocation", lambda row, _id: row):
        yield


@contextmanager
def silence_counts_from_the_beginning() -> Iterator[None]:
    """L2: who has not begun is taken to be silent."""
    watched = awakeables.watched

    def hasty(created: AwakeableRow, watch: awakeables.Watch) -> AwakeableRow:
        row = watched(created, watch)
        row.heartbeat_json = b'{"progress":null,"at_ms":0}'
        row.deadline_ms = created.created_ms + (watch.heartbeat_ms or 0)
        return row

    with mock.patch.object(awakeables, "watched", hasty):
        yield


@contextmanager
def nobody_is_told() -> Iterator[None]:
    """L3: the worker of a cancelled task goes on."""
    with mock.patch.object(rows, "revocation", return_value=None):
        yield


MUTATIONS: tuple[Callable[[], Any], ...] = (
    a_tick_begins_beside_the_one_before,
    a_tick_is_marked_before_it_begins,
    a_late_answer_is_not_noted,
    silence_counts_from_the_beginning,
    nobody_is_told,
    a_version_is_forgotten,
    what_was_not_asked_is_of_today,
    a_batch_of_records_is_begun_again,
    what_a_full_queue_has_left_is_passed_over,
    a_failed_record_leaves_nothing,
    a_run_with_another_input_is_begun,
    a_promise_is_settled_again,
    a_promise_wakes_nobody,
    a_shield_is_none,
    nothing_is_undone,
    a_journal_is_cut_anywhere,
    a_key_is_not_passed_on,
    a_killed_one_keeps_its_key,
    two_hold_one_key,
    a_delayed_one_takes_no_place,
    circles_are_not_looked_for,
    state_is_read_again_in_replay,
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
    the_end_of_a_call_tells_nobody,
    calls_are_left_behind,
    a_kill_spares_the_calls,
    attached_too_late,
    called_again_after_a_lost_acknowledgement,
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


@contextmanager
def a_tick_is_evaluated_again() -> Iterator[None]:
    """H8: the tick that a command expects is not compared with the row's."""
    fire = scheduling.fire

    def careless(command: Fire, rows: Rows, now_ms: int, changes: Any) -> Any:
        row = rows.schedules[command.schedule]
        if row is not None and row.next_ms == command.following_ms:
            return fire(
                replace(command, next_ms=row.next_ms, following_ms=row.next_ms + 1), rows, now_ms, changes
            )
        return fire(command, rows, now_ms, changes)

    with mock.patch.dict(decisions.BY_KEY, {Fire: careless}):
        yield


MUTATIONS_OF_SEVERAL: tuple[Callable[[], Any], ...] = (
    a_tick_is_evaluated_again,
    nobody_is_declared_dead,
    no_owner_fence,
    suspend_without_looking,
    no_offset_fence,
)
