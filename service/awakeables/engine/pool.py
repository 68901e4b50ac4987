"""The runners of the invocations in memory: begins, claims and revives them, and delivers events to them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import structlog

from awakeables.core.awakeables import LATE_LETTER, Completion, Verdict
from awakeables.core.backoff import Backoff
from awakeables.core.commands import Begin, Claim, TakeTickets
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect
from awakeables.core.invocations import SUSPECT_STARTS, Invocation
from awakeables.core.journal import Entry, Input
from awakeables.core.outcomes import ABSENT, Cancellation, Outcome, Rejection, Resolution, as_resolution
from awakeables.core.records import text_bytes
from awakeables.core.replies import Acknowledged, Claimed, Reply, Wake
from awakeables.core.sealed import Unopened
from awakeables.engine.committer import FIRST_PAUSE_S, LONGEST_PAUSE_S, Committer
from awakeables.engine.histories import Histories, histories
from awakeables.engine.invocationlog import InvocationLog
from awakeables.engine.member import Member
from awakeables.engine.outbox import Relay
from awakeables.engine.runner import Runner, RunnerSettings
from awakeables.engine.settlement import PayloadValidator
from awakeables.engine.timers import Timers
from awakeables.engine.waiters import Waiters
from awakeables.errors import AuthorError, NotFound, StoreUnavailable, ValueSealed
from awakeables.handlers.attempt import Attempt, Attempts, Progress, StateWait
from awakeables.ports import Clock, Expectation, HandlerReader
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics
from awakeables.telemetry.outages import Outages

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans

log = structlog.stdlib.get_logger(__name__)

CLAIM_LIMIT = 200
BEHIND = 10_000
"""With more unread completions than this, about a second's work, the service is behind."""

FEW = 50
"""How many suspended handlers may be revived at once while the service is behind: few, to leave the
processor to reading. A topic drops old records, whereas a stored answer is safe and can wait."""

MOST_NAMED = 20
"""How many invocations one log line lists."""

GRID_S = 0.05
"""Lingering ends at multiples of this, so that one timer of the event loop serves many handlers."""

A_DAY_S = 86_400.0
"""The longest timer; a runner that is called too early sets another one."""

ALIVE_S = 1.0
"""A handler that has run for this long is taken not to be the one that kills its process."""


DeadLetterTo: TypeAlias = tuple[DeadLetter, str]
"""A dead letter, and the topic for its copy."""


class Isolation:
    """The time for which a suspect must survive."""

    def __init__(self, suspect: Runner, until: float) -> None:
        self.wakes_at: float | None = until
        self._suspect = suspect

    def on_time(self) -> None:
        """It has survived."""
        self._suspect.prove_alive()


class RunnerPool:
    """The runners of one engine, by their invocations' IDs.

    Attributes:
        attempts: Where handlers run.
        metrics: Where attempts are counted.
        spans: Begins their spans; None: none are recorded.
        catch_up: Has the relay read the store before it publishes anything else.
        stopping: Whether claiming has stopped.
        left: The invocations whose runners have left since the last sweep.
    """

    def __init__(  # noqa: PLR0913 - all of it is given by name
        self,
        attempts: Attempts,
        store: HandlerReader,
        committer: Committer,
        *,
        relay: Relay,
        settle: Callable[[Completion], Coroutine[Any, Any, Verdict | None]],
        unread: Callable[[], int],
        validator: PayloadValidator,
        waiters: Waiters,
        clock: Clock,
        member: Member,
        paused: Callable[[], Sequence[str]],
        build: str,
        settings: RunnerSettings,
        max_running: int,
        log_level: int,
        metrics: Metrics,
        spans: Spans | None,
        on_wake_elsewhere: Callable[[Wake], None],
        on_end_for_another: Callable[[Invocation], None],
        on_cancelled_elsewhere: Callable[[Invocation], None],
        on_failure: Callable[[BaseException], None],
        on_unexpected: Callable[..., None],
        failed_record: Callable[[str, Input, Rejection], DeadLetterTo | None],
        on_subscribed_end: Callable[[str], None],
    ) -> None:
        """Begin with no runner.

        Args:
            attempts: Where handlers run.
            store: Reads journals, and the state of objects.
            committer: Commits claims and steps.
            relay: Publishes effects once they are committed.
            settle: Settles a completion that a handler makes.
            unread: The number of unread completions, which is compared with `BEHIND`.
            validator: Remembers what new awakeables expect.
            waiters: The callers that wait for invocations to end.
            clock: The time.
            member: This process among the instances: the owner in the fences.
            paused: The handlers that are paused, as `versions.target` names them.
            build: The version of the code, kept in the rows that it writes.
            settings: How invocations are run.
            max_running: How many may be in memory at once; further ones wait as rows.
            log_level: The level at which the end of an invocation is logged.
            metrics: Where attempts are counted.
            spans: Begins the spans of attempts; None: none are recorded.
            on_wake_elsewhere: Called with each outcome for an invocation that another instance owns.
            on_end_for_another: Called with each invocation that was begun by an instance that may be another,
                once it has ended or is paused.
            on_cancelled_elsewhere: Called with each invocation that was cancelled here and does not run here.
            on_failure: Called with the error of each failed attempt.
            on_unexpected: Called with unexpected errors, and fields for the log.
            failed_record: Makes the dead letter of a record whose invocation fails, if there is to be one.
            on_subscribed_end: Called with the name of a subscription when one of its invocations has ended.
        """
        self.attempts = attempts
        self.committer = committer
        self.clock = clock
        self.member = member
        self.build = build
        self.settings = settings
        self.on_failure = on_failure
        self.publish: Callable[[Sequence[Effect]], None] = relay.hand_off
        self.catch_up: Callable[[], None] = relay.fall_behind
        self.failed_record = failed_record
        self._on_subscribed_end = on_subscribed_end
        self._on_effects: Callable[[], None] = relay.poke
        self.stopping = False
        self._hurries = False
        self._store = store
        self._settle = settle
        self._unread = unread
        self._paused = paused
        self._validator = validator
        self._waiters = waiters
        self._max_running = max_running
        self._log_level = log_level
        self._logs_ends = log.is_enabled_for(log_level)
        self.metrics = metrics
        self.spans = spans
        self._on_unexpected = on_unexpected
        self._on_wake_elsewhere = on_wake_elsewhere
        self._on_end_for_another = on_end_for_another
        self._on_cancelled_elsewhere = on_cancelled_elsewhere
        self._linger_s = settings.linger.total_seconds()
        self.left: set[str] = set()
        self._runners: dict[str, Runner] = {}
        self._revived: set[Runner] = set()
        self._suspect: Runner | None = None
        self._full = False
        self._poked = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timers = Timers()
        self._outages = Outages(clock.monotonic)
        metrics.handlers_live.set_function(lambda: len(self._runners))

    def __len__(self) -> int:
        return len(self._runners)

    def __contains__(self, invocation_id: str) -> bool:
        return invocation_id in self._runners

    def may_begin(self) -> bool:
        """Whether there is a place, and this instance lives for certain."""
        return len(self._runners) < self._max_running and (self.member.alone or self.member.is_sure())

    def is_pressed(self) -> bool:
        """Whether handlers must suspend without lingering."""
        return self._hurries or self.settings.always_suspend or len(self._runners) >= self._max_running

    @property
    def idle(self) -> bool:
        """Whether there is no runner, and nothing known to be claimable."""
        return not self._runners and not self._poked.is_set()

    # Events.

    def begin(self, command: Begin, given: Input) -> asyncio.Future[Reply]:
        """Run a handler's first step, and create the invocation and the step in one commit.

        Args:
            command: Creates the invocation for this owner; its journal has the input alone.
            given: That input.

        Returns:
            The reply, once the commit is durable. Cancelling the future drops the invocation.
        """
        invocation_log = InvocationLog(
            invocation_id=command.id, service=command.service, handler=command.handler
        )
        runner = self._runners[command.id] = Runner(
            self, invocation_log, epoch=1, version=1, wake=0, attempts=0
        )
        return runner.begin(command, given)

    def wake(self, wakes: Sequence[Wake]) -> None:
        """Deliver outcomes to runners; invocations without one are claimed soon, unless others own them."""
        own = self.member.id
        woken: dict[Runner, None] = {}
        for wake in wakes:
            if wake.owner is not None and wake.owner != own:
                self._on_wake_elsewhere(wake)
                continue
            runner = self._runners.get(wake.invocation_id)
            if runner is not None:
                runner.receive(wake)
                woken[runner] = None
            else:
                self._poked.set()
        for runner in woken:  # with all that it was woken by
            runner.go_on()

    def cancelled(self, invocation_id: str) -> bool:
        """Notify the runner of a cancelled invocation; return whether there is one."""
        runner = self._runners.get(invocation_id)
        if runner is not None:
            runner.on_cancelled()
        return runner is not None

    def pausing(self, invocation_id: str) -> None:
        """Notify the runner of an invocation that is to be paused; other instances find out themselves."""
        runner = self._runners.get(invocation_id)
        if runner is not None:
            runner.on_pausing()

    def stopped(self, rows: Sequence[Invocation]) -> None:
        """Act on invocations that were cancelled, or have ended, because of another one."""
        for row in rows:
            result = row.result
            if result is not None:
                self.detach(row.id)
                self.ended(row, result)
                if row.ticket is not None:  # its key is the next one's
                    self._poked.set()
            elif not self.cancelled(row.id):
                self._on_cancelled_elsewhere(row)
                self._poked.set()

    def detach(self, invocation_id: str) -> None:
        """Drop the runner of an invocation that was ended from outside; its place is free at once."""
        runner = self._runners.get(invocation_id)
        if runner is not None and not runner.closing:  # else its own end is being committed
            self.forget(runner)
            runner.detach()

    def lose_all(self, reason: str) -> None:
        """Drop all runners: this instance was declared dead, and others own its invocations."""
        for runner in list(self._runners.values()):
            self.forget(runner)
            runner.detach(reason)

    def go_on(self) -> None:
        """Begin what was put off while this instance may have been declared dead."""
        for runner in list(self._runners.values()):
            runner.on_ready()
        self._poked.set()

    def filed(self, letter: DeadLetter) -> None:
        """A record whose invocation has failed is a dead letter, whose copy is to be published."""
        self.metrics.dead_letters_added(letter.code)
        self._on_effects()

    def look_again(self) -> None:
        """Search for claimable invocations soon."""
        self._poked.set()

    def stop_claiming(self) -> None:
        """Claim nothing from now on; what is in memory goes on."""
        self.stopping = True

    def stop_lingering(self) -> None:
        """Suspend all waiting handlers, and from now on those that begin to wait."""
        self._hurries = True
        for runner in list(self._runners.values()):
            runner.stop_lingering()

    # For runners.

    def wake_at(self, runner: Runner, due_ms: int | None, *, lingers: bool) -> float | None:
        """Set a timer for `runner.on_time`: when it has lingered, or something is due before that.

        Returns:
            When, in the event loop's time; None if the handler should be suspended at once.
        """
        now, moment = asyncio.get_running_loop().time(), None
        if lingers and self._linger_s > 0:
            moment = (int((now + self._linger_s) / GRID_S) + 1) * GRID_S
        if due_ms is not None:
            left_s = max(0.0, (due_ms - self.clock.now_ms()) / 1000)
            if left_s <= self._linger_s:
                moment = min(now + left_s, moment or now + left_s)
        if moment is not None:
            self._timers.add(runner, moment)
        return moment

    def wake_when_due(self, runner: Runner, due_ms: int) -> float:
        """Set a timer for `runner.on_time` at an instant, or a day from now; return it in the loop's time."""
        left_s = min(max(0.0, (due_ms - self.clock.now_ms()) / 1000), A_DAY_S)
        moment = asyncio.get_running_loop().time() + left_s
        self._timers.add(runner, moment)
        return moment

    def remember(self, invocation_id: str, progress: Progress, attempt: Attempt | None) -> None:
        """Keep in memory what the new awakeables expect."""
        schemas = dict(progress.schemas)
        for row in progress.awakeables:
            if row.source is not None:
                continue
            expectation = Expectation(
                invocation_id=invocation_id,
                codec=row.codec,
                type_name=row.type_name,
                schema_hash=row.schema_hash,
                schema=schemas.get(row.schema_hash or ""),
                keeps_late=row.on_late == LATE_LETTER,
            )
            self._validator.remember(
                row.id, expectation, None if attempt is None else attempt.codec_of(row.id)
            )

    def settle(self, completion: Completion, name: str) -> asyncio.Task[Resolution]:
        """Settle a completion made by a handler; the result is the verdict."""
        return self._spawn(self._settled(completion), name)

    def read_state(self, wait: StateWait, name: str) -> asyncio.Task[Outcome]:
        """Read what a handler asks for of its state."""
        return self._spawn(self._read_state(wait), name)

    def ended(self, row: Invocation, result: Outcome) -> None:
        """Log the end of an invocation, and answer its waiters."""
        if self._logs_ends or not isinstance(result, Resolution):
            _log_of(row).ended(result, duration_ms=row.updated_ms - row.created_ms, level=self._log_level)
        self._waiters.ended(row.id, result)
        if row.subscription is not None:
            self._on_subscribed_end(row.subscription)
        if row.origin is not None:
            self._on_end_for_another(row)

    def paused(self, row: Invocation) -> None:
        """Answer the waiters that also wait for a pause."""
        self._waiters.paused(row.id)
        if row.origin is not None:
            self._on_end_for_another(row)

    def proved_alive(self) -> None:
        """Let the next suspect run, because this one has committed or is gone."""
        self._suspect = None
        self._poked.set()

    def failed(self, runner: Runner, error: BaseException) -> None:
        """Drop a runner that failed itself; a sweep releases its row, which is then claimed again."""
        self._on_unexpected(error, invocation_id=runner.invocation_id)
        runner.close()
        self.forget(runner)

    def forget(self, runner: Runner) -> None:
        """Remove a runner, which frees its place."""
        if self._runners.get(runner.invocation_id) is runner:
            del self._runners[runner.invocation_id]
            self.left.add(runner.invocation_id)
            if self._full:
                self._poked.set()
        self._revived.discard(runner)
        if runner is self._suspect:
            self.proved_alive()

    # Claiming.

    async def run(self) -> None:
        """Claim runnable invocations while there are places, until cancelled, which drops all handlers."""
        self.stopping = self._hurries = False
        self._timers.begin()
        try:
            while True:
                self._poked.clear()
                free = self._places()
                self._full = free <= 0
                more = free > 0 and not self.stopping and await self._claim(min(free, CLAIM_LIMIT))
                if not more:
                    await self._poked.wait()
        finally:
            await self._stop()

    async def _stop(self) -> None:
        self.stop_claiming()
        for runner in list(self._runners.values()):
            runner.close()
        for task in self._tasks:
            task.cancel()
        await self.attempts.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._runners.clear()
        self._revived.clear()
        self._timers.clear()
        self._suspect = None

    def _places(self) -> int:
        places = self._max_running - len(self._runners)
        is_behind = self._unread() > BEHIND
        return min(places, FEW - len(self._revived)) if is_behind else places

    async def _claim(self, limit: int) -> bool:
        """Claim runnable invocations and run them; return whether there may be more."""
        if not self.member.is_sure():
            return False  # it may be declared dead: the next heartbeat or sweep looks again
        command = Claim(
            owner=self.member.id,
            limit=limit,
            suspect=self._suspect is None,
            not_builds=self.member.not_builds,
            not_handlers=(*self.member.not_handlers, *self._paused(), *self.attempts.unavailable()),
        )
        claimed = await self.committer.commit(command, Claimed)
        if claimed.effect_ids:
            self.catch_up()
        # If the command was sent again for as long as it took to be declared dead, its rows are owned under
        # the ID of before, and are taken over.
        own = self.member.id
        rows = [row for row in claimed.invocations if row.status == "running" and row.owner == own]
        for row in claimed.invocations:
            if row.status == "paused" and row.failure is not None:
                _log_of(row).paused(row.failure.kind, level=logging.ERROR)
                self.paused(row)
        # Added before their journals are read, so that wake-ups in between reach them.
        runners = {row.id: self._runner_of(row) for row in rows}
        self._runners.update(runners)
        self._revived.update(runners.values())
        for row in rows:
            # `starts` includes this claim.
            if row.starts > SUSPECT_STARTS:
                self._isolate(runners[row.id])
        if rows:
            self._spawn(self._revive(rows, runners), "revive")
        if claimed.arrived:
            await self._take_tickets(claimed.arrived)
        found = len(claimed.invocations) + len(claimed.arrived)
        return found == limit or len(rows) < found

    async def _take_tickets(self, invocation_ids: Sequence[str]) -> None:
        """Let delayed invocations whose time has come take their places, each by a command of its own."""
        orders = [TakeTickets(ids=(each,)) for each in invocation_ids]
        taken = await asyncio.gather(
            *(self.committer.commit(order, Acknowledged) for order in orders), return_exceptions=True
        )
        for error in taken:
            if isinstance(error, BaseException):
                self._on_unexpected(error, invocation_ids=invocation_ids[:MOST_NAMED])

    def _isolate(self, suspect: Runner) -> None:
        self._suspect = suspect
        suspect.isolate()

    def _runner_of(self, row: Invocation) -> Runner:
        return Runner(
            self,
            _log_of(row),
            epoch=row.epoch,
            version=row.version,
            wake=row.wake,
            attempts=row.attempts,
            tries=row.failure.tries if row.attempts and row.failure is not None else {},
            cancelled=row.cancelled_ms is not None,
            exclusive=row.ticket is not None,
        )

    async def _revive(self, rows: Sequence[Invocation], runners: Mapping[str, Runner]) -> None:
        """Read the journals of claimed invocations, and run them.

        While the store can't be read, they are kept: the claim counts as a start, so that after some more
        claims without a commit they would seem to crash their owners. They are read in ever smaller parts,
        so that those that the server can't read, or not in time, hold up no others.
        """
        unread, backoff = deque([rows]), Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while unread:
            part = [row for row in unread.popleft() if runners[row.id] in self._revived]  # not lost meanwhile
            if not part:
                continue
            invocation_ids = [row.id for row in part]
            try:
                found = await histories(self._store, invocation_ids)
            except StoreUnavailable as error:
                self._note_unread(invocation_ids, error)
                if self._suspect is not None and self._suspect.invocation_id in invocation_ids:
                    self.proved_alive()  # it does not run, so the next one may
                middle = len(part) // 2
                unread.extend(some for some in (part[:middle], part[middle:]) if some)
                await asyncio.sleep(backoff.next_s())
            except Exception as error:
                self._on_unexpected(error, invocation_ids=invocation_ids[:MOST_NAMED])
                for invocation_id in invocation_ids:
                    self.forget(runners[invocation_id])
            else:
                backoff.reset()
                for row in part:
                    self._run_again(row.id, runners[row.id], found)
        self._outages.succeeded("journals")

    def _note_unread(self, invocation_ids: Sequence[str], error: StoreUnavailable) -> None:
        failures = self._outages.failed("journals")
        if failures is not None:
            named = invocation_ids[:MOST_NAMED]
            log.error(
                events.JOURNALS_UNREAD,
                count=len(invocation_ids),
                invocation_ids=named,
                failures=failures,
                error=str(error),
            )

    def _run_again(self, invocation_id: str, runner: Runner, found: Histories) -> None:
        runner.preload(found.outcomes.get(invocation_id, {}))
        problem = found.problems.get(invocation_id)
        if isinstance(problem, ValueSealed):
            runner.wait_for_key(problem)
        elif problem is not None:
            runner.pause(problem)
        elif invocation_id in found.journals:
            self._start(runner, found.journals[invocation_id])
        else:
            self.forget(runner)  # ended and purged meanwhile

    def _start(self, runner: Runner, journal: Sequence[Entry]) -> None:
        if runner.suspected and self._suspect is None:  # its journal could not be read for a while
            self._suspect = runner
        if runner is self._suspect:
            until = asyncio.get_running_loop().time() + ALIVE_S
            self._timers.add(Isolation(runner, until), until)
        try:
            runner.start(journal)
        except NotFound as error:
            # While the only instance that has the handler restarts, others claim what is due.
            if self.member.alone:
                runner.pause(error)
            else:
                runner.put_off(error)
        except AuthorError as error:
            runner.pause(error)
        except Exception as error:
            self.failed(runner, error)

    async def _settled(self, completion: Completion) -> Resolution:
        return Resolution.of_json(msgspec.json.encode(await self._settle(completion)))

    async def _read_state(self, wait: StateWait) -> Outcome:
        object_key, backoff = (wait.service, text_bytes(wait.key)), Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                if wait.progress_of is not None:
                    row = await self._store.awakeable(wait.progress_of)
                    if row is not None and isinstance(row.heartbeat_json, Unopened):
                        raise row.heartbeat_json.error
                    beat = None if row is None else row.heartbeat
                    return ABSENT if beat is None else Resolution(value=beat.progress)
                if wait.promise_id is not None:
                    outcome = (await self._store.outcomes([wait.promise_id])).get(wait.promise_id)
                    if outcome is None or isinstance(outcome, Cancellation):
                        return ABSENT
                    return outcome
                if wait.name is None:
                    return Resolution.of_json(msgspec.json.encode(await self._store.state_names(object_key)))
                value = await self._store.state(object_key, wait.name)
            except StoreUnavailable:
                await asyncio.sleep(backoff.next_s())
            else:
                return ABSENT if value is None else as_resolution(value)

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _log_of(row: Invocation) -> InvocationLog:
    return InvocationLog(invocation_id=row.id, service=row.service, handler=row.handler)
