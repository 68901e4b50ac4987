"""One invocation in memory: steps its attempt, commits the progress, and delivers what it waits for.

    start ─▶ STEPPING ─▶ BLOCKED ──outcome, timer, action, cancellation──▶ STEPPING
                            │ nothing arrives for a while
                            ▼
    ended ─▶ CLOSING ◀── stopped      the last commit is under way; its reply ends the runner

A runner is an object with events. It has no task, future or timer of its own while its handler waits for an
answer; docs/architecture.md lists when there is one.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from awakeables.core.awakeables import Completion
from awakeables.core.commands import Advance, Begin
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect
from awakeables.core.invocations import (
    BackOff,
    Continue,
    End,
    Failure,
    Next,
    Pause,
    Suspend,
)
from awakeables.core.journal import CancellationRaised, Entry, Input, OutcomeDelivered, RunEnded
from awakeables.core.outcomes import Outcome, Rejection
from awakeables.core.replies import Advanced, Begun, Reply, Wake
from awakeables.core.sources import source_of
from awakeables.core.texts import message_of, type_of
from awakeables.engine.committer import resolve
from awakeables.engine.invocationlog import InvocationLog
from awakeables.engine.ownercommits import NOTHING, OwnerCommits
from awakeables.engine.timers import has_come
from awakeables.engine.waits import Waits
from awakeables.errors import KeyMissing, StoreRefused, ValueSealed
from awakeables.handlers.attempt import (
    Attempt,
    Broken,
    Crashed,
    Ending,
    Finished,
    News,
    Origin,
    Progress,
    SettleWait,
    StateWait,
    joined,
)
from awakeables.handlers.retry import RetryPolicy
from awakeables.telemetry import events
from awakeables.telemetry.metrics import end_of

if TYPE_CHECKING:
    from awakeables.engine.pool import RunnerPool

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSettings:
    """How invocations are run.

    Attributes:
        linger: How long a waiting handler stays in memory before it is suspended.
        retry: When failed attempts are repeated.
        always_suspend: Suspend at every await, even if the outcome is known: a test mode in which every
            step of a handler is a replay.
        max_actions: How many actions of an invocation are executed at the same time.
    """

    linger: timedelta = timedelta(seconds=1)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    always_suspend: bool = False
    max_actions: int = 32


class Runner:
    """Runs one invocation while it is in memory.

    Attributes:
        wakes_at: When `on_time` is to be called, in the event loop's time; None: never.
        closing: Whether its last commit is under way, or was; or the process stops.
        suspected: Whether it was in memory at each of the last crashes, and has committed nothing since.
    """

    # More than 30 attributes are too many for what CPython shares between the dicts of a class's instances.
    __slots__ = (
        "_abandoned",
        "_attempt",
        "_attempts",
        "_began_s",
        "_cancelled",
        "_commits",
        "_durable",
        "_exclusive",
        "_given",
        "_inbox",
        "_lets_go",
        "_letter",
        "_log",
        "_lost",
        "_owes",
        "_pausing",
        "_pool",
        "_raised",
        "_refusal",
        "_replies",
        "_running",
        "_sealed",
        "_shielded",
        "_stepping",
        "_stored",
        "_tries",
        "_unsent",
        "_waits",
        "_wake",
        "_wanted",
        "_woken",
        "closing",
        "invocation_id",
        "suspected",
        "wakes_at",
    )

    def __init__(  # noqa: PLR0913 - all of it is given by name
        self,
        pool: RunnerPool,
        invocation_log: InvocationLog,
        *,
        epoch: int,
        version: int,
        wake: int,
        attempts: int,
        tries: Mapping[int, int] | None = None,
        cancelled: bool = False,
        exclusive: bool = False,
    ) -> None:
        """Prepare to run what this owner has claimed under this epoch."""
        self.invocation_id = invocation_log.invocation_id
        self.wakes_at: float | None = None
        self._pool = pool
        self._log = invocation_log
        self._attempts = attempts
        self._tries = dict(tries or {})  # how often the actions that still fail have failed
        self._exclusive = exclusive
        self._commits = OwnerCommits(
            self.invocation_id, owner=pool.member.id, build=pool.build, epoch=epoch, version=version
        )
        self._durable = 0  # the entries of the journal that are known to be on disk
        self._stored = version
        self._wake = wake
        self._attempt: Attempt | None = None
        self._began_s = 0.0
        self._waits: Waits | None = None
        self._running = 0
        self._owes = False  # the attempt a step: it has not ended, and blocks on nothing
        self._unsent: list[Progress] = []
        self._inbox: dict[str, Outcome] = {}
        self._replies: dict[int, Outcome | None] = {}
        self._cancelled = cancelled
        self._raised = False  # that it is cancelled, in the handler
        self._shielded = False
        self._pausing = False
        self._wanted = False  # by the attempt, which has news of its own
        self._stepping = False
        self.closing = False
        self._lets_go: Suspend | None = None  # the last step, once the attempt was asked to stop for it
        self._woken = False
        self._lost = False
        self._abandoned: tuple[str, ...] = ()
        self._refusal: Rejection | None = None
        self._sealed = False  # it needs a value that can't be opened: its last commit says so
        self._letter: DeadLetter | None = None
        self._given: Input | None = None  # with the record that it was begun for
        self.suspected = False

    # Events.

    def begin(self, command: Begin, given: Input) -> asyncio.Future[Reply]:
        """Run the first step of a new invocation, and create the invocation and the step in one commit."""
        attempt = self._open([given], durable=0)
        begun: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        progress: Progress | Awaitable[Progress] | None = None
        try:
            progress = attempt.advance(News(now_ms=given.at_ms))
        except Exception as error:
            self._pool.failed(self, error)
        first = progress if isinstance(progress, Progress) and progress.ended is None else None
        whole = command if first is None else self._commits.first_step(command, first)
        on_reply = functools.partial(self._on_begun, begun, command, first, self._commits.entries)
        self._pool.committer.post(whole, on_reply, given_up=begun.cancelled)
        # Posted before anything else that the step leads to, whose commits need the row.
        if first is not None:
            self._waits = Waits(first.blocked_on)
        elif progress is not None:
            self._on_advanced(progress)
        return begun

    def start(self, history: Sequence[Entry]) -> None:
        """Begin an attempt of a claimed invocation by replaying its journal.

        Raises:
            NotFound: There is no such handler, or not of the version that it began with.
        """
        if not self._lost:
            given = history[0]
            if isinstance(given, Input) and given.record is not None:
                self._given = given
            self._open(history, durable=len(history))
            self.go_on()

    def _open(self, history: Sequence[Entry], *, durable: int) -> Attempt:
        origin = Origin(
            invocation_id=self.invocation_id,
            service=self._log.service,
            handler=self._log.handler,
            number=self._attempts + 1,
            exclusive=self._exclusive,
        )
        self._commits.open(len(history))
        self._durable = durable
        self._raised = len(history) > 1 and any(isinstance(entry, CancellationRaised) for entry in history)
        # Thread-safe, because a handler may use the context from a thread of its own, by mistake.
        ready = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, self.on_ready)
        self._attempt = attempt = self._pool.attempts.open(origin, history, ready)
        if self._pool.spans is not None:
            attempt.record(self._pool.spans)
        self._began_s = self._pool.clock.monotonic()
        return attempt

    def preload(self, outcomes: dict[str, Outcome]) -> None:
        """Add outcomes that were read after the claim, in the order of settlement.

        What has arrived since the claim and was not read was settled after all of them.
        """
        self._inbox = outcomes | self._inbox

    def _on_begun(
        self,
        begun: asyncio.Future[Reply],
        command: Begin,
        first: Progress | None,
        entries: int,
        reply: Reply | Exception,
    ) -> None:
        """Handle the reply to the commit that creates the invocation."""
        if isinstance(reply, StoreRefused | ValueSealed) and first is not None:
            # It is because of the handler's first step, not of the caller: the invocation is created without
            # that, and fails or is paused (hard case 2).
            on_reply = functools.partial(self._on_begun, begun, command, None, 1)
            self._pool.committer.post(command, on_reply, given_up=begun.cancelled)
            self._not_committed(reply)
            return
        if isinstance(reply, Begun):
            self._durable = entries
            self._inbox.update(reply.settled)
            if first is not None:
                self._relay(first, reply.effects)
                self._note_conflicts(first, reply.conflicts)
            if reply.stopped or reply.wakes:
                self._tell(reply)
            self.go_on()
        else:
            self._not_committed(reply)
        resolve(begun, reply)

    def receive(self, wake: Wake) -> None:
        """Note the settlement of one of its awakeables, a wake-up with a sequence number; `go_on` is next.

        A gap means that a hint was lost. Then the old number stays, so that the next suspend is refused
        and the invocation stays runnable, instead of sleeping through what it has missed.
        """
        self._inbox[wake.awakeable_id] = wake.outcome
        self._woken = True
        if wake.wake == self._wake + 1:
            self._wake = wake.wake

    def on_cancelled(self) -> None:
        """Handle the cancellation of the invocation, or that it was asked for again.

        The count of wake-ups stays: which of them was the cancellation's is not known here, and to take an
        outcome's for it would let the invocation sleep through that. The next suspension is refused instead.
        """
        self._cancelled = self._woken = True
        self.go_on()

    def on_pausing(self) -> None:
        """Handle an operator's request to pause the invocation, at its next wait."""
        self._pausing = True
        self.go_on()

    def on_ready(self) -> None:
        """Handle news of the attempt: an action has ended, or the context was misused."""
        self._wanted = True
        self.go_on()

    def on_time(self) -> None:
        """Handle the timer: `wakes_at` has come."""
        self.go_on()

    def stop_lingering(self) -> None:
        """Suspend instead of lingering any longer, if nothing has arrived."""
        self.go_on()

    def isolate(self) -> None:
        """Find out whether this handler, which was in memory at each of the last crashes, causes them.

        It does not linger; and if it survives for a moment, `prove_alive` is called.
        """
        self.suspected = True

    def prove_alive(self) -> None:
        """Commit something, unless it has: a handler that did not survive can't."""
        if self.suspected and not self.closing and not self._pool.stopping:
            self._commit(Continue(), None)

    def detach(self, reason: str = "the invocation was ended from outside") -> None:
        """Drop the handler of an invocation that is not this owner's any more; it commits nothing more."""
        self._lose(reason)

    def close(self) -> None:
        """Drop the handler where it is, because the process stops."""
        self.closing = True
        if self._attempt is not None and not self._stepping:
            self._attempt.close()

    def pause(self, error: Exception) -> None:
        """Pause an invocation whose attempt can't be begun with this code."""
        self._log.paused(message_of(error))
        self._pool.on_failure(error)
        self._finish(Pause(failure=self._failure(type_of(error), message_of(error))), None)

    def wait_for_key(self, error: ValueSealed) -> None:
        """Leave an invocation that needs a value which can't be opened; to others, which may have its key."""
        self._sealed = True
        if isinstance(error, KeyMissing) and not self._pool.member.alone:
            self.put_off(error)
        else:
            self.pause(error)

    def put_off(self, error: Exception) -> None:
        """Try again later: another instance may have the code that this one lacks, or may have it soon."""
        self._retry(self._failure(type_of(error), message_of(error)), None, message_of(error))

    # Stepping.

    def go_on(self) -> None:
        """Step the handler for as long as something lets it continue."""
        if self._stepping or self.closing or self._attempt is None:
            return
        try:
            while (news := self._news()) is not None:
                self._wanted = False  # what it wants from now on is news again
                progress = self._attempt.advance(news)
                if not isinstance(progress, Progress):
                    self._on_advanced(progress)
                    return
                if not self._take(progress):
                    return
        except Exception as error:
            self._pool.failed(self, error)

    def _on_advanced(self, progress: Progress | Awaitable[Progress]) -> None:
        """Take the progress, at once or, if the handler awaits something other than the context, later."""
        if not isinstance(progress, Progress):
            self._stepping = True
            asyncio.ensure_future(progress).add_done_callback(self._on_progress)
            self._commit_unsent()
            return
        try:
            goes_on = self._take(progress)
        except Exception as error:
            self._pool.failed(self, error)
            return
        if goes_on:
            self.go_on()

    def _on_progress(self, done: asyncio.Future[Progress]) -> None:
        """Handle progress that came later."""
        self._stepping = False
        if done.cancelled():
            # By the process that stops, or by code that cancels the tasks of others: then no event of this
            # runner would ever come, and it must leave the pool.
            error: BaseException | None = asyncio.CancelledError("the task of a handler was cancelled")
        else:
            error = done.exception()
        if self.closing:
            self.close()
        elif error is not None and self._lost:
            self._go()
        elif error is not None:
            self._pool.failed(self, error)
        else:
            self._on_advanced(done.result())

    def _take(self, progress: Progress) -> bool:
        """Note new entries; return whether the attempt goes on: it has not ended.

        They are committed once the handler waits for something that has not arrived: a handler that finds a
        thousand answers at hand makes one commit. An action's outcome is committed before it goes on (J3).
        """
        self.wakes_at = None
        self._owes = progress.owes
        if progress.ended is not None:
            whole = joined([*self._unsent, progress]) if self._unsent else progress
            self._unsent = []
            self._conclude(whole, progress.ended)
            return False
        waits, self._running, self._shielded = self._waits, progress.running, progress.shielded
        is_new = progress.entries or progress.no_longer
        if waits is not None and is_new and (progress.waits_on or len(waits.answers) > 1):
            for awakeable_id in waits.receive(progress.entries, progress.no_longer):
                self._inbox.pop(awakeable_id, None)
        if not progress.waits_on or waits is None:
            self._waits = Waits(progress.blocked_on)
        elif progress.blocked_on:
            waits.add(progress.blocked_on)
        if progress.entries and not self._lost and self._refusal is None:
            if self._cancelled and not self._raised:
                self._raised = any(isinstance(entry, CancellationRaised) for entry in progress.entries)
            self._unsent.append(progress)
            if self._owes:
                self._commit_unsent()
        return True

    def _commit_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and not self._lost and self._refusal is None:
            self._commit(Continue(), unsent[0] if len(unsent) == 1 else joined(unsent))

    def _news(self) -> News | None:
        """Return what the handler continues with, or the request to stop; None: it keeps waiting."""
        if self._lost or self._refusal is not None:
            return self._stop()
        waits, arrived, now_ms = self._waits, [], 0
        if waits is not None and (self._inbox or not waits.only_answers):
            now_ms = self._pool.clock.now_ms()
            arrived = waits.arrived(self._inbox, self._replies, now_ms)
        raises = self._cancelled and waits is not None and not (self._raised or self._shielded)
        if self._pausing and waits is not None and not (self._running or self._owes):
            # The row's mark makes it a pause. What has arrived is in the rows, for when it is resumed.
            self._commit_unsent()
            self._lets_go = Suspend(wake=-1)
            return self._stop()
        hands_out = bool(arrived) or raises or self._owes
        durable = 0 if self._pausing else self._durable  # what began ends, and nothing begins any more
        if waits is not None and not (
            hands_out
            or self._wanted
            or (
                waits.needs_disk
                and len(waits.acting) < self._pool.settings.max_actions
                and waits.may_start(durable, now_ms)
                and self._pool.member.is_sure()
            )
        ):
            return self._stop() if self._on_blocked(waits) else None
        if hands_out and self._pool.settings.always_suspend and not self._running:
            # -1 never equals the row's wake number, so the row stays runnable.
            self._lets_go = Suspend(wake=-1)
        return News(
            now_ms=now_ms or self._pool.clock.now_ms(),
            durable=durable,
            arrived=tuple(arrived),
            cancel=self._cancelled,
            stop=self._lets_go is not None,
        )

    def _stop(self) -> News:
        now_ms = self._pool.clock.now_ms()
        return News(now_ms=now_ms, durable=self._durable, cancel=self._cancelled, stop=True)

    def _on_blocked(self, waits: Waits) -> bool:
        """When nothing has arrived: commit what is new, settle what the handler settles, set the timer.

        Returns:
            Whether the handler is to be suspended now.
        """
        if not waits.only_reads:  # which are done before a commit would be: it is made with what comes next
            self._commit_unsent()
        for wait in waits.requests.values():
            self._request(wait)
        pool, due_ms = self._pool, None
        if not waits.only_answers:
            due_ms = waits.due_ms(runs=len(waits.acting) < pool.settings.max_actions)
        # Not while a commit is under way: its reply comes soon, and its effects must be published in order.
        stays = self._running > 0 or self._durable < self._commits.entries or waits.keeps_in_memory()
        is_over = self.wakes_at is not None and has_come(self.wakes_at)
        if is_over:
            self.wakes_at = None
        if not (is_over or self.suspected or pool.is_pressed()):
            if self.wakes_at is None:
                self.wakes_at = pool.wake_at(self, due_ms, lingers=bool(waits.answers))
            stays = stays or self.wakes_at is not None
        if stays:
            if self.wakes_at is None and due_ms is not None and (self._running or waits.keeps_in_memory()):
                # An action keeps it in memory, and it waits for an instant as well.
                self.wakes_at = pool.wake_when_due(self, due_ms)
            return False
        # Whatever arrives from now on is for the next attempt.
        self._lets_go, self._woken = Suspend(wake=self._wake, due_ms=due_ms), False
        return True

    def _request(self, wait: SettleWait | StateWait) -> None:
        """Do what the handler asks for, once: read its state, or settle a completion that is durable."""
        if wait.index in self._replies:
            return
        if isinstance(wait, StateWait):
            self._replies[wait.index] = None
            read = self._pool.read_state(wait, self.invocation_id)
            read.add_done_callback(functools.partial(self._on_reply, wait.index))
        elif wait.index < self._durable:
            self._replies[wait.index] = None
            self._settle(wait)

    def _settle(self, wait: SettleWait) -> None:
        completion = Completion(
            awakeable_id=wait.awakeable_id,
            body=wait.answer,
            # The same in every replay, so that the store answers a repeat with the first verdict.
            source=source_of("handler", f"{self.invocation_id}:{wait.index}"),
            trace=wait.trace,
            of_promise=wait.of_promise,
        )
        settled = self._pool.settle(completion, self.invocation_id)
        settled.add_done_callback(functools.partial(self._on_reply, wait.index))

    def _on_reply(self, index: int, done: asyncio.Future[Outcome]) -> None:
        """Handle a verdict, or a value of the state."""
        if done.cancelled():  # the process is stopping
            return
        error = done.exception()
        if error is None:
            self._replies[index] = done.result()
            self.go_on()
        elif isinstance(error, ValueSealed):
            self.wait_for_key(error)
        else:
            self._not_committed(error)

    # Ending the attempt.

    def _conclude(self, progress: Progress, ended: Ending) -> None:
        self._abandoned = progress.open_awakeables
        match ended:
            case _ if self._lost:
                self._go()
            case _ if self._refusal is not None:
                self._finish(End(result=self._refusal, abandoned=self._abandoned), None)
            case Finished(result=result):
                self._finish(End(result=result, abandoned=self._abandoned), progress)
            case Crashed() as crashed:
                self._failed(crashed, progress)
            case Broken() as broken:
                self._log.paused(broken.message)
                beside = None if broken.of is None else progress
                self._finish(Pause(failure=self._failure(broken.kind, broken.message)), beside)
            case _:
                self._finish(self._lets_go or Suspend(wake=-1), progress)

    def _failed(self, crashed: Crashed, progress: Progress) -> None:
        if crashed.of is not None:
            self._tries = self._left_of_tries(progress)
            for index in crashed.of:
                self._tries[index] = self._tries.get(index, 0) + 1
            if progress.entries:
                self._attempts = max(self._tries.values(), default=1) - 1
        failure = self._failure(crashed.kind, crashed.message)
        error = None if self._attempt is None else self._attempt.error
        self._retry(failure, error, crashed.traceback, beside=None if crashed.of is None else progress)

    def _retry(
        self, failure: Failure, error: BaseException | None, traceback: str, *, beside: Progress | None = None
    ) -> None:
        failures = self._attempts + 1
        pause_ms = self._pool.settings.retry.pause_ms(failures)
        self._log.failed(error, traceback, failures=failures, retry_in_ms=pause_ms)
        if pause_ms is None:
            self._log.paused(failure.message)
            self._finish(Pause(failure=failure), beside)
        else:
            self._finish(BackOff(due_ms=failure.at_ms + pause_ms, failure=failure), beside)

    def _failure(self, kind: str, message: str) -> Failure:
        if self._attempt is not None and self._attempt.error is not None:
            self._pool.on_failure(self._attempt.error)
        return Failure(kind=kind, message=message, at_ms=self._pool.clock.now_ms(), tries=self._tries)

    def _finish(self, step: Next, progress: Progress | None) -> None:
        """End the attempt with a last commit, whose reply ends the runner."""
        self.closing, self.wakes_at = True, None
        self._commit(step, progress, last=True)

    def _go(self, last: Next | None = None) -> None:
        """Leave the pool: the runner's work is done."""
        self.closing, self.wakes_at = True, None
        if self._attempt is not None:
            took_s, end = self._pool.clock.monotonic() - self._began_s, end_of(last)
            self._pool.metrics.attempt(self._log.service, self._log.handler, end, took_s)
            self._attempt.close(end)
            self._attempt = None
        self._pool.forget(self)

    def _lose(self, reason: str) -> None:
        """Stop without committing: the invocation has another owner, or has ended."""
        if self._lost:
            return
        self._lost = True
        log.info(events.OWNERSHIP_LOST, invocation_id=self.invocation_id, reason=reason)
        if self.closing or self._attempt is None:
            self._go()
        else:
            self.go_on()

    # Committing.

    def _commit(self, step: Next, progress: Progress | None, *, last: bool = False) -> None:
        command = self._commits.step(step, progress or NOTHING)
        if command.chunk is not None:
            if not isinstance(step, BackOff | Pause):  # else they are counted by now
                if self._tries:
                    self._tries = self._left_of_tries(progress or NOTHING)
                self._attempts = max(self._tries.values()) if self._tries else 0
            if self._attempts:
                command = replace(command, attempts=self._attempts)
        if last and self._given is not None:
            command = self._with_dead_letter(command, self._given)
        on_reply = functools.partial(self._finished, step) if last else self._replied
        self._pool.committer.post(command, functools.partial(on_reply, progress, self._commits.entries))

    def _left_of_tries(self, progress: Progress) -> dict[int, int]:
        """The failures of those actions that are still to be executed, with this progress beside them."""
        over = {entry.of for entry in progress.entries if isinstance(entry, OutcomeDelivered | RunEnded)}
        waits = None if self._owes or progress.ended is not None else self._waits
        return {
            index: count
            for index, count in self._tries.items()
            if index not in over and (waits is None or index in waits.runs or index in waits.acting)
        }

    def _with_dead_letter(self, command: Advance, given: Input) -> Advance:
        """The end of an invocation that fails makes its record a dead letter, unless it was cancelled."""
        if self._cancelled or not (
            isinstance(command.next, End) and isinstance(command.next.result, Rejection)
        ):
            return command
        failed = self._pool.failed_record(self.invocation_id, given, command.next.result)
        if failed is None:
            return command
        self._letter, relay_to = failed
        return replace(command, dead_letter=self._letter, relay_to=relay_to)

    def _replied(self, progress: Progress | None, entries: int, reply: Reply | Exception) -> None:
        """Handle the reply to a commit after which the attempt continues."""
        if isinstance(reply, Advanced):
            self._committed(progress, entries, reply)
            waits = self._waits
            marked = self._cancelled or self._pausing
            if waits is None or waits.needs_disk or self.wakes_at is None or marked or reply.settled:
                self.go_on()
        else:
            self._not_committed(reply)

    def _finished(
        self, step: Next, progress: Progress | None, entries: int, reply: Reply | Exception
    ) -> None:
        """Handle the reply to the last commit."""
        if not isinstance(reply, Advanced):
            if self._sealed and isinstance(step, Pause | BackOff):
                self._give_up(reply)
            elif self._refusal is None:
                self._not_committed(reply)
            elif isinstance(step, End) and step.result is self._refusal:
                # Even the refusal can't be committed, or the invocation was ended from outside.
                if isinstance(reply, Exception):
                    self._pool.failed(self, reply)
                else:
                    self._lose(_name(reply))
            return
        self._committed(progress, entries, reply)
        if self._letter is not None and reply.filed:
            self._pool.filed(self._letter)
        if isinstance(step, End):
            self._pool.ended(reply.invocation, step.result)
            if self._exclusive:  # its key is the next one's
                self._pool.look_again()
        elif reply.invocation.status == "paused":
            self._pool.paused(reply.invocation)
        elif reply.invocation.status == "pending" or self._woken:
            # Something arrived after it was stopped: the next attempt is due at once.
            self._pool.look_again()
        self._go(step)

    def _committed(self, progress: Progress | None, entries: int, reply: Advanced) -> None:
        self._stored, self._durable = reply.invocation.version, entries
        for awakeable_id, outcome in reply.settled:
            self._inbox.setdefault(awakeable_id, outcome)
        if reply.invocation.cancelled_ms is not None:
            # The request for it may have ended before it could notify this runner.
            self._cancelled = True
        self._pausing = reply.invocation.pausing_ms is not None
        if self.suspected:
            self.suspected = False
            self._pool.proved_alive()
        if progress is not None and (progress.awakeables or progress.calls or reply.effects):
            self._relay(progress, reply.effects)
            self._note_conflicts(progress, reply.conflicts)
        if reply.stopped or reply.wakes:
            self._tell(reply)

    def _tell(self, reply: Advanced | Begun) -> None:
        """Tell the invocations that a commit has stopped, and those that waited for one that it has ended."""
        self._pool.stopped(reply.stopped)
        self._pool.wake(reply.wakes)

    def _relay(self, progress: Progress, effects: Sequence[Effect]) -> None:
        """Act on a durable step: remember what its awakeables expect, publish its effects, run its calls."""
        if progress.awakeables:
            self._pool.remember(self.invocation_id, progress, self._attempt)
        if progress.calls:
            self._pool.look_again()
        if effects and self._commits.owner == self._pool.member.id:  # else they are others' to publish
            self._pool.publish(effects)

    def _note_conflicts(self, progress: Progress, conflicts: Sequence[str]) -> None:
        """Log and count the sends that were not created, of which the handler may never learn.

        What it waits for raises in the handler.
        """
        if not conflicts:
            return
        awaited = {each.source for each in progress.awakeables}
        for call in progress.calls:
            if call.id in conflicts and call.id not in awaited:
                self._log.send_conflict(call)
                self._pool.metrics.send_conflicts.labels(call.service, call.handler).inc()

    def _not_committed(self, reply: Reply | BaseException) -> None:
        if self._lost or self._sealed or self._refusal is not None:
            return  # commits after one that failed are fenced
        if isinstance(reply, StoreRefused):
            self._commits.roll_back(self._stored)
            reason = f"the store refuses what the handler has produced: {reply}"
            self._refusal = Rejection(reason=reason, code=500)
            if self.closing:
                self._finish(End(result=self._refusal, abandoned=self._abandoned), None)
            else:
                self.go_on()
        elif isinstance(reply, ValueSealed):
            self._commits.roll_back(self._stored)
            self.wait_for_key(reply)
        else:
            self._give_up(reply)

    def _give_up(self, reply: Reply | BaseException) -> None:
        if isinstance(reply, BaseException):
            self._pool.failed(self, reply)
        else:
            self._lose(_name(reply))


def _name(reply: object) -> str:
    return f"the reply to a commit was {type(reply).__name__}"
