"""One invocation, live: drives the execution, commits what it asks for, hands in what it waits for."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

import msgspec
import structlog

from awakeables.core.awakeables import Completion, Verdict
from awakeables.core.invocations import (
    CANCELLED,
    BackOff,
    Continue,
    End,
    Failure,
    Invocation,
    Next,
    Pause,
    Suspend,
)
from awakeables.core.journal import Entry, Tried, encode_chunk
from awakeables.core.orders import Advance, Advanced, Answer, Begun, Effect, Wake
from awakeables.core.outcomes import NULL, Cancellation, Outcome, Rejection, Resolution
from awakeables.core.texts import described, message_of, type_of
from awakeables.engine.committer import Committer
from awakeables.engine.subject import Subject
from awakeables.errors import OwnershipLost, ResultMisfit, StoreRefused
from awakeables.handlers.actions import perform
from awakeables.handlers.calls import Raised
from awakeables.handlers.execution import (
    AwakeableWait,
    Broken,
    Crashed,
    Execution,
    Finished,
    Left,
    RunWait,
    SettleWait,
    SleepWait,
    Step,
    Taken,
    Wait,
)
from awakeables.handlers.retry import RetryPolicy
from awakeables.ports import Clock
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

ALIVE_S = 1.0
"""A handler that kills its process does so at once, as far as one can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSettings:
    """How invocations are run.

    Attributes:
        linger: How long a waiting handler stays in memory before it is suspended.
        retry: What happens to attempts that fail.
        always_suspend: Suspend at every await, also when the outcome is at hand: a test mode
            that makes every step of a handler a replay.
    """

    linger: timedelta = timedelta(seconds=1)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    always_suspend: bool = False


class House(Protocol):
    """What a runner needs of the engine that it lives in."""

    owner: str
    build: str
    committer: Committer
    clock: Clock
    settings: RunnerSettings
    stopping: bool
    executor: Executor

    def crowded(self) -> bool:
        """Are the places for live handlers used up, so that nobody may linger?"""
        ...

    def publish(self, effects: tuple[Effect, ...]) -> None:
        """Effects are committed: relay them."""
        ...

    def remember(self, invocation_id: str, taken: Taken) -> None:
        """Awakeables were created: keep what they expect at hand."""
        ...

    async def settle_own(self, completion: Completion) -> Verdict | None:
        """Settle a completion of the handler's own."""
        ...

    def ended(self, row: Invocation) -> None:
        """Tell who waits for the invocation."""
        ...

    def paused(self, invocation_id: str) -> None:
        """Notify the callers that wait for the invocation: only an operator can let it go on."""
        ...

    def failed(self, error: BaseException) -> None:
        """An attempt has failed with this."""
        ...

    def look_again(self) -> None:
        """An invocation may have become runnable."""
        ...


class Runner:
    """The live half of an invocation.

    Its commits are numbered by the version that they build on, so several can be under way: if
    one fails, those behind it are fenced.

    Attributes:
        attempts: Failed attempts since the journal last grew.
        last: What the commit said that ended the attempt; None before, and where none did.
    """

    def __init__(
        self,
        house: House,
        subject: Subject,
        *,
        epoch: int,
        version: int,
        wake: int,
        attempts: int,
        cancelled: bool = False,
    ) -> None:
        """Prepare to run what this owner has claimed under this epoch."""
        self.invocation_id = subject.invocation_id
        self._subject = subject
        self.attempts = attempts
        self.last: Next | None = None
        self._cancelled = cancelled
        self._house = house
        self._epoch = epoch
        self._version = version
        self._wake = wake
        self._stored = version
        self._commits = 0
        self._tail: asyncio.Future[Answer] | None = None
        self._outcomes: dict[str, Outcome] = {}
        self._awaited: str | None = None
        self._told = False
        self._fenced = False
        self._rung: asyncio.Future[None] | None = None
        self._cleared: Callable[[], None] | None = None
        self._calls_off: tuple[str, ...] = ()

    # ── told from outside ──────────────────────────────────────────────────────────────────

    def notify(self, wake: Wake) -> None:
        """An awakeable of this invocation was settled."""
        self._outcomes[wake.awakeable_id] = wake.outcome
        self._count(wake.wake)
        if wake.awakeable_id == self._awaited:
            self._ring()

    def cancel(self, wake: int) -> None:
        """The invocation was cancelled."""
        self._cancelled = True
        self._count(wake)
        self._ring()

    def _count(self, wake: int) -> None:
        """Note that something was told, and the how-manieth it was.

        A gap means that a hint was lost: then the old count stays, and suspending with it answers
        "look again" instead of sleeping through what was missed.
        """
        self._told = True
        if wake == self._wake + 1:
            self._wake = wake

    def preload(self, outcomes: dict[str, Outcome]) -> None:
        """Outcomes that were read after the claim."""
        self._outcomes |= outcomes

    def let_go(self) -> None:
        """The invocation was ended by somebody else: nothing that its handler does counts any more."""
        self._fenced = True
        self._ring()

    def hurry(self) -> None:
        """Stop lingering."""
        self._ring()

    def stand_alone(self, cleared: Callable[[], None]) -> None:
        """This one was there at each of the last crashes: commit soon, to show that it lives.

        It does not linger, and what runs for longer says so with a commit of its own.
        """
        self._cleared = cleared
        asyncio.get_running_loop().call_later(ALIVE_S, self._say_alive)

    def _say_alive(self) -> None:
        if self._cleared is not None and not self._house.stopping:
            self._advance(Continue(), None)

    # ── running ────────────────────────────────────────────────────────────────────────────

    async def run(self, execution: Execution, *, begun: asyncio.Future[Answer] | None = None) -> None:
        """Run until the invocation ends, suspends, backs off or is paused.

        Args:
            execution: The attempt.
            begun: The commit that creates the invocation, when it is still under way.
        """
        self._tail = begun
        # Threads of the handler's own may misuse the context, too.
        execution.on_misuse = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, self._ring)
        try:
            while True:
                self._check()
                if self._cancelled:
                    execution.let_clean_up()
                step = await execution.step()
                if not isinstance(step, Wait):
                    await self._conclude(execution, step)
                    return
                if self._is_to_be_told(execution):
                    # Before any outcome that is not yet journaled (hard case 12). What the handler
                    # creates from now on, to undo what it did, is not called off.
                    self._calls_off = execution.open_awakeables()
                    execution.cancel()
                    if self._house.settings.always_suspend:
                        await self._suspend(execution, due_ms=None, runnable=True)
                        return
                elif not await self._obtain(execution, step):
                    return
        except OwnershipLost:
            log.info(events.OWNERSHIP_LOST, invocation_id=self.invocation_id)
            await execution.leave()
        except asyncio.CancelledError:
            if self._house.stopping or self._tail is None or not self._tail.cancelled():
                raise
            # The caller gave up on the commit that creates the invocation, so it isn't known
            # whether there is a row; if there is, the sweep lets go of it and it is claimed.
            await execution.leave()
        except StoreRefused as error:
            self._version = self._stored
            rejection = Rejection(
                reason=f"the store refuses what the handler wants to keep: {error}", code=500
            )
            await self._end(execution, rejection, None)
        finally:
            execution.close()

    async def park(self, error: Exception) -> None:
        """Pause an invocation that can't even be begun with this code."""
        try:
            await self._submit(Pause(failure=self._failure(error)), None)
        except OwnershipLost:
            log.info(events.OWNERSHIP_LOST, invocation_id=self.invocation_id)
            return
        self._subject.paused(message_of(error))

    async def _obtain(self, execution: Execution, wait: Wait) -> bool:
        """Get what the handler waits for and hand it in; False: the attempt is over."""
        match wait:
            case AwakeableWait():
                outcome, due_ms = self._outcomes.get(wait.awakeable_id), None
                if outcome is None:
                    outcome = await self._linger(execution, wait.awakeable_id)
            case SleepWait():
                slept, due_ms = await self._until(execution, wait.until_ms), wait.until_ms
                outcome = Resolution.of_json(NULL) if slept else None
            case RunWait():
                return await self._run_action(execution, wait)
            case SettleWait():
                await self._flush(execution)
                verdict = await self._house.settle_own(wait.completion)
                return await self._deliver(
                    execution, wait.index, Resolution.of_json(msgspec.json.encode(verdict))
                )
        if self._is_to_be_told(execution):
            return True
        if outcome is None:
            return await self._suspend(execution, due_ms=due_ms)
        return await self._deliver(execution, wait.index, outcome)

    async def _run_action(self, execution: Execution, wait: RunWait) -> bool:
        """Execute an action, unless it is too early to try it again, or the handler is called off."""
        retry_at_ms = wait.tried.retry_at_ms if wait.tried else None
        if retry_at_ms is not None and not await self._until(execution, retry_at_ms):
            return self._is_to_be_told(execution) or await self._suspend(execution, due_ms=retry_at_ms)
        if self._is_to_be_told(execution):
            return True
        await self._flush(execution)
        self._check()
        execution.acting = wait.name
        try:
            executed = await self._execute(wait)
        finally:
            execution.acting = None
        self._check()
        result = execution.broke_off() or executed
        if isinstance(result, Crashed | Broken):
            await self._conclude(execution, await _unwound(execution, result))
            return False
        if isinstance(result, Tried):
            execution.retry_later(result)
            await self._flush(execution)
            return True
        if not await self._deliver(execution, wait.index, result):
            return False
        # Recorded as soon as it is known, not only when the handler next waits (J3); and handed
        # out also if the invocation was cancelled meanwhile: what was done can't be undone by it.
        self._send(execution)
        return True

    async def _deliver(self, execution: Execution, index: int, outcome: Outcome) -> bool:
        execution.deliver(index, outcome)
        if self._house.settings.always_suspend:
            return await self._suspend(execution, due_ms=None, runnable=True)
        return True

    def _is_to_be_told(self, execution: Execution) -> bool:
        """Was the invocation cancelled, and its handler not yet told?"""
        return self._cancelled and not execution.cancelled

    async def _linger(self, execution: Execution, awakeable_id: str) -> Outcome | None:
        """Wait a moment for an answer; None: the handler is to be suspended."""
        if self._house.settings.always_suspend:
            return None
        await self._flush(execution)
        linger_s = 0.0 if self._is_pressed() else self._house.settings.linger.total_seconds()
        self._awaited = awakeable_id
        if awakeable_id not in self._outcomes:
            await self._wait(execution, linger_s)
        self._awaited = None
        return self._outcomes.get(awakeable_id)

    async def _until(self, execution: Execution, until_ms: int) -> bool:
        """Wait for an instant that is near; False: it is far, suspend."""
        left_s = (until_ms - self._house.clock.now_ms()) / 1000
        if left_s <= 0:
            return True
        settings = self._house.settings
        if settings.always_suspend or self._is_pressed() or left_s > settings.linger.total_seconds():
            return False
        await self._flush(execution)
        await self._wait(execution, left_s)
        return self._house.clock.now_ms() >= until_ms

    def _is_pressed(self) -> bool:
        """Is there no time to linger?"""
        return self._cleared is not None or self._house.crowded()

    async def _wait(self, execution: Execution, longest_s: float) -> None:
        """Wait until something rings, or so long."""
        self._check()
        if execution.is_over or self._is_to_be_told(execution):
            return
        loop = asyncio.get_running_loop()
        self._rung = loop.create_future()
        timer = loop.call_later(longest_s, self._ring)
        try:
            await self._rung
        finally:
            timer.cancel()
            self._rung = None

    def _check(self) -> None:
        """Go no further for an invocation that somebody else has ended.

        Raises:
            OwnershipLost: It was.
        """
        if self._fenced:
            raise OwnershipLost("somebody else has ended the invocation")

    def _ring(self) -> None:
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(None)

    async def _execute(self, wait: RunWait) -> Resolution | Rejection | Tried | Crashed | Broken:
        began_ms = wait.tried.began_ms if wait.tried else self._house.clock.now_ms()
        try:
            result = await perform(wait, self._house.executor)
        except ResultMisfit as misfit:
            return Broken(misfit)
        if not isinstance(result, Raised):
            return result
        error = result.error
        if wait.retry is None:
            return Crashed(error)
        attempt = (wait.tried.attempt if wait.tried else 0) + 1
        pause_ms = wait.retry.pause_ms(attempt)
        retry_at_ms = self._house.clock.now_ms() + (pause_ms or 0)
        if wait.retry.is_over(began_ms, retry_at_ms):
            pause_ms = None
        self._subject.run_failed(wait.name, error, failures=attempt, retry_in_ms=pause_ms)
        if pause_ms is None:
            return Rejection(reason=f"run {wait.name!r} failed {attempt} times, last with {described(error)}")
        return Tried(
            of=wait.index,
            attempt=attempt,
            began_ms=began_ms,
            error=described(error),
            retry_at_ms=retry_at_ms,
        )

    # ── ending an attempt ──────────────────────────────────────────────────────────────────

    async def _suspend(self, execution: Execution, *, due_ms: int | None, runnable: bool = False) -> bool:
        left = await execution.leave()
        if not isinstance(left, Left):
            await self._conclude(execution, left)
            return False
        # -1 is no wake that was ever seen: the row stays runnable.
        step = Suspend(wake=-1 if runnable else self._wake, due_ms=due_ms)
        self._told = False
        row = (await self._submit(step, execution.take())).invocation
        if row.status == "pending" or self._told:
            # What it was told after it had let go is for the next attempt.
            self._house.look_again()
        return False

    async def _conclude(self, execution: Execution, step: Step) -> None:
        match step:
            case Finished():
                await self._end(execution, step.result, execution.take())
            case Crashed():
                await self._failed(step.error)
            case Broken():
                failure = self._failure(step.error)
                self._subject.paused(failure.message)
                await self._submit(Pause(failure=failure), None)
            case _:
                raise TypeError(f"an attempt can't conclude with {step!r}")

    async def _end(self, execution: Execution, result: Outcome, taken: Taken | None) -> None:
        abandoned = execution.open_awakeables()
        ended = await self._submit(End(result=result, abandoned=abandoned), taken)
        self._house.ended(ended.invocation)

    async def _failed(self, error: BaseException) -> None:
        failures = self.attempts + 1
        pause_ms = self._house.settings.retry.pause_ms(failures)
        failure = self._failure(error)
        self._subject.failed(error, failures=failures, retry_in_ms=pause_ms)
        if pause_ms is None:
            self._subject.paused(failure.message)
            await self._submit(Pause(failure=failure), None)
        else:
            await self._submit(BackOff(due_ms=self._house.clock.now_ms() + pause_ms, failure=failure), None)

    def _failure(self, error: BaseException) -> Failure:
        self._house.failed(error)
        return Failure(kind=type_of(error), message=message_of(error), at_ms=self._house.clock.now_ms())

    # ── committing ─────────────────────────────────────────────────────────────────────────

    async def _flush(self, execution: Execution) -> None:
        """Make durable whatever the handler has decided so far."""
        self._send(execution)
        if self._tail is not None:
            answer = await self._tail
            if not isinstance(answer, Advanced | Begun):
                raise OwnershipLost(f"a commit was answered with {type(answer).__name__}")
            self._tail = None

    def _send(self, execution: Execution) -> None:
        taken = execution.take()
        if taken:
            self._tail = self._advance(Continue(), taken)

    async def _submit(self, step: Next, taken: Taken | None) -> Advanced:
        """Commit and let go."""
        answer = await self._advance(step, taken)
        if isinstance(answer, Advanced):
            self.last = step
            if isinstance(step, Pause):
                self._house.paused(self.invocation_id)
            return answer
        if self._tail is not None:
            # The commit before this one failed; why is worth more than that this one was fenced.
            await self._tail
        raise OwnershipLost(f"a commit was answered with {type(answer).__name__}")

    def _advance(self, step: Next, taken: Taken | None) -> asyncio.Future[Answer]:
        entries: list[Entry] = taken.entries if taken else []
        self._commits += 1
        member = Advance(
            invocation_id=self.invocation_id,
            owner=self._house.owner,
            epoch=self._epoch,
            version=self._version,
            number=self._commits,
            build=self._house.build,
            next=step,
            chunk=encode_chunk(entries) if entries else None,
            awakeables=tuple(taken.awakeables) if taken else (),
            schemas=tuple(taken.schemas.items()) if taken else (),
            effects=tuple(taken.effects) if taken else (),
            calls_off=self._calls_off if taken else (),
        )
        if taken:
            self._calls_off = ()
        if entries:
            self._version += 1
            self.attempts = 0
        future = self._house.committer.submit(member)
        future.add_done_callback(functools.partial(self._committed, taken))
        return future

    def _committed(self, taken: Taken | None, future: asyncio.Future[Answer]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        answer = future.result()
        if isinstance(answer, Advanced):
            self._stored = answer.invocation.version
            self._outcomes |= {key: Cancellation(reason=CANCELLED) for key in answer.called_off}
            if answer.invocation.cancelled_ms is not None:
                # Whoever asked for it may have gone before this runner was told.
                self._cancelled = True
            if self._cleared is not None:
                cleared, self._cleared = self._cleared, None
                cleared()
            if taken and taken.awakeables:
                self._house.remember(self.invocation_id, taken)
            if answer.effects:
                self._house.publish(answer.effects)


async def _unwound(execution: Execution, step: Crashed | Broken) -> Step:
    """Unwind a handler after a failure; that it would not go is worth more than the failure."""
    left = await execution.leave()
    return step if isinstance(left, Left) else left
