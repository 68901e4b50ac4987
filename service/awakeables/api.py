"""The application service: every operation on a running engine, in one class.

HTTP, the commands that serve an app, the testing kit and a host process all call this and nothing behind
it. A method returns once its effect is durable, and otherwise raises an error of `errors.py`. It knows
nothing about transports: client time-outs, tokens and wording belong to the caller.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from awakeables.core.awakeables import Completion, Verdict
from awakeables.core.commands import (
    Begin,
    Cancel,
    Command,
    EditState,
    Ended,
    Idempotency,
    Kill,
    PauseInvocation,
    PauseKey,
    Purge,
    Queue,
    Republish,
    Resend,
    Restart,
    Resume,
    ResumeKey,
)
from awakeables.core.effects import Effect
from awakeables.core.ids import IdKind
from awakeables.core.instances import Instance
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Input, encode_chunk, waits_created
from awakeables.core.objects import RUN, StateWrite
from awakeables.core.outcomes import Outcome
from awakeables.core.pauses import PauseRow
from awakeables.core.replay import cut_problem, markers_in
from awakeables.core.replies import (
    Begun,
    CancelMarked,
    KeyChanged,
    KeyConflict,
    Killed,
    NotBegun,
    PauseMarked,
    Purged,
    QueueFull,
    Reply,
    Republished,
    Resent,
    Restarted,
    Resumed,
)
from awakeables.core.versions import first_versions
from awakeables.engine.engine import Engine
from awakeables.engine.invocationlog import InvocationLog
from awakeables.engine.offsets import (
    Move,
    PartitionProgress,
    SeekTo,
    SubscriptionControl,
    SubscriptionProgress,
    TopicProgress,
)
from awakeables.engine.readiness import Readiness
from awakeables.engine.schedulecontrol import ScheduleControl, ScheduleStatus
from awakeables.engine.waiters import Waiter
from awakeables.errors import (
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    NotPossible,
    Overloaded,
    QueueIsFull,
    RunNotBegun,
    ValueSealed,
)
from awakeables.handlers.invoking import (
    beginning,
    idempotency_scope,
    key_problem,
    run_key,
    workflow_of,
    written_input,
)
from awakeables.handlers.service import Handler
from awakeables.ports import Expectation, FunctionStatus, RemoteFunctions
from awakeables.queries import KeyStatus, Queries, existing

__all__ = [
    "Api",
    "InstanceStatus",
    "Move",
    "PartitionProgress",
    "Readiness",
    "ScheduleStatus",
    "SeekTo",
    "SubscriptionProgress",
    "idempotency_scope",
]

R = TypeVar("R", bound=Reply)

log = structlog.stdlib.get_logger(__name__)

LATEST_MS = 2**53
"""Later than any instant: what has ended has ended before it."""

STARTING = "starting"
DRAINING = "draining"
"""The name of the service's own problem in readiness."""


class WaitingCall(NamedTuple):
    """An invocation that a caller has begun and waits for.

    Attributes:
        id: The invocation's ID.
        begun: The store's reply: whether the invocation exists.
        end: The outcome; None at a pause or at `Api.drain`. It also raises errors of the store.
    """

    id: str
    begun: asyncio.Future[Reply]
    end: Waiter


class InstanceStatus(NamedTuple):
    """An instance, and what it owns.

    Attributes:
        invocations: How many invocations are running under it.
        partitions: The partitions of the completions topic that it reads.
        is_this: Whether it is the one that says so.
    """

    instance: Instance
    invocations: int
    partitions: tuple[int, ...]
    is_this: bool


class Api(Queries):
    """Begins, inspects and operates the invocations of one engine, and settles its awakeables.

    Attributes:
        build: The code that serves it.
        publishes_verdicts: Whether every completion's verdict is published to the app's verdicts topic.
    """

    def __init__(self, engine: Engine, functions: RemoteFunctions | None = None) -> None:
        """Give access to an engine. Commands work while it runs, queries as long as its store is open.

        Args:
            functions: Those of the app's remote services; None: it has none.
        """
        super().__init__(engine.app, engine.store, engine.relay.holdup)
        self.build = engine.build
        self.publishes_verdicts = engine.config.verdicts
        self._logs_begins = log.is_enabled_for(engine.config.log_invocations)
        self._draining = False
        self._engine = engine
        self._committer = engine.committer
        self._pool = engine.pool
        self._relay = engine.relay
        self._waiters = engine.waiters
        self._most_waiters = engine.config.max_running + engine.config.max_backlog
        self._offsets = TopicProgress(engine.completions, engine.problems)
        self._subscriptions = SubscriptionControl(
            engine.subscriptions, engine.store, engine.offsets, engine.problems
        )
        self._functions = functions
        self._schedules = ScheduleControl(engine.schedules, engine.store, engine.committer, engine.clock)

    def new_id(self, kind: IdKind) -> str:
        """A new ID for something that the caller creates, such as a completion's source."""
        return self._engine.ids.new(kind)

    # Calling handlers

    async def begin(
        self,
        handler: Handler,
        content: bytes | None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency: Idempotency | None = None,
        delay: timedelta = timedelta(0),
        by: str | None = None,
        scheduled_ms: int | None = None,
    ) -> Begun:
        """Create an invocation; when this returns, it is durable and will run.

        Args:
            handler: A handler of the app.
            content: Its input as returned by `Handler.accept`.
            key: Of an object's handler: the key that it is called for.
            headers: The caller's headers, for `ctx.request`.
            idempotency: The caller's key; the same key and fingerprint give the same invocation.
            delay: How much later to begin.
            by: The name of the caller's token, kept with the invocation.
            scheduled_ms: For tests: the tick of a schedule that it is begun for.

        Raises:
            Overloaded: Too many calls wait already; nothing was created.
            IdempotencyConflict: The key was used for another request.
            QueueIsFull: The object's key has too many calls in its queue.
            RunNotBegun: The workflow has no run of this key.
            InvalidInput: The object's key can't be one, or is missing.
        """
        _, submitted = self._submit(
            handler,
            content,
            headers or {},
            key=key,
            idempotency=idempotency,
            delay=delay,
            by=by,
            scheduled_ms=scheduled_ms,
        )
        reply = await submitted
        if isinstance(reply, NotBegun):
            raise RunNotBegun(f"{handler.service}/{key}")
        if isinstance(reply, KeyConflict) and handler.kind == "run":
            raise IdempotencyConflict(
                f"{handler.service}/{key} has a run with another input, {reply.id}: it is begun once per key"
            )
        if isinstance(reply, KeyConflict):
            raise IdempotencyConflict(
                f"the idempotency key {idempotency.key if idempotency else ''!r} was used for another request"
            )
        if isinstance(reply, QueueFull):
            raise QueueIsFull(f"{handler.service}/{key}", reply.length)
        if not isinstance(reply, Begun):
            raise TypeError(f"Begin got the reply {type(reply).__name__}")
        return reply

    def call(
        self,
        handler: Handler,
        content: bytes | None,
        *,
        key: str | None = None,
        headers: dict[str, str],
        by: str | None = None,
    ) -> WaitingCall:
        """Create an invocation and wait for its end, without waiting for its beginning first.

        The arguments are those of `begin`. If the queue of an object's key is full, or a workflow has no run
        of the key, `end` raises it.

        Raises:
            Overloaded: Too many calls wait already; nothing was created.
            InvalidInput: The object's key can't be one, or is missing.
        """
        begin, submitted = self._submit(handler, content, headers, key=key, by=by)
        return WaitingCall(begin.id, submitted, self._waiters.add(begin.id, until_paused=True))

    def _submit(
        self,
        handler: Handler,
        content: bytes | None,
        headers: Mapping[str, str],
        *,
        key: str | None = None,
        idempotency: Idempotency | None = None,
        delay: timedelta = timedelta(0),
        by: str | None = None,
        scheduled_ms: int | None = None,
    ) -> tuple[Begin, asyncio.Future[Reply]]:
        engine = self._engine
        # As `draining` says, and the length of `waiters`: each property is a call, for each callback.
        if self._draining or self._pool.stopping or not engine.serving.is_set():
            raise Overloaded("the service is starting or stopping; try again later")
        self._committer.refuse_if_full()
        if len(self._waiters.waiting) >= self._most_waiters:
            raise Overloaded("too many calls wait to run; try again later")
        if handler.keyed or key is not None:
            _check_key(handler, key)
        workflow = workflow_of(handler, key) if handler.of_workflow else None
        if workflow is not None and workflow.is_run:
            if idempotency is not None:
                raise InvalidInput(
                    f"{handler.service}/{handler.name} is begun once per key: leave out the idempotency key"
                )
            idempotency = run_key(workflow, key, content)
        value, value_base64 = written_input(handler, content)
        given = Input(
            service=handler.service,
            handler=handler.name,
            key=key,
            seed=engine.ids.seed(),
            at_ms=engine.clock.now_ms(),
            headers=dict(headers),
            value=value,
            value_base64=value_base64,
            scheduled_ms=scheduled_ms,
            version=handler.version,
        )
        # Not at once by an instance that may be declared dead before the row is written.
        # An exclusive one may find its key held.
        # A handler of a workflow may find that there is no run. A handler may be paused.
        waits_first = handler.exclusive or workflow is not None
        waits_first = waits_first or (
            bool(engine.pauses.rows) and engine.pauses.of(handler.service, handler.name) is not None
        )
        at_once = idempotency is None and not delay and not waits_first and self._pool.may_begin()
        begin = Begin(
            id=engine.ids.new("inv"),
            service=handler.service,
            handler=handler.name,
            chunk=encode_chunk([given]) if workflow is None else beginning(given, handler, workflow),
            key=key,
            queue=Queue(most=handler.max_queue) if handler.exclusive else None,
            owner=engine.member.id if at_once else None,
            delay_ms=delay // timedelta(milliseconds=1),
            idempotency=idempotency,
            build=engine.build,
            by=by,
            origin=None if engine.member.alone else engine.member.id,
            workflow=workflow,
            versions=handler.versions,
        )
        # The handler runs while its row is being written: its own commits follow that one.
        submitted = self._pool.begin(begin, given) if at_once else self._committer.submit(begin)
        submitted.add_done_callback(functools.partial(self._on_begun, begin))
        return begin, submitted

    def _on_begun(self, begin: Begin, submitted: asyncio.Future[Reply]) -> None:
        """Handle the reply to `Begin`: the invocation exists now, or there is nothing to wait for."""
        if submitted.cancelled():
            # Its caller has gone. If the row exists nevertheless, a sweep releases it.
            self._pool.detach(begin.id)
            return
        error = submitted.exception()
        if error is not None:
            self._waiters.failed(begin.id, error)
            return
        reply = submitted.result()
        if isinstance(reply, QueueFull):
            self._waiters.failed(begin.id, QueueIsFull(f"{begin.service}/{begin.key}", reply.length))
            return
        if isinstance(reply, NotBegun):
            self._waiters.failed(begin.id, RunNotBegun(f"{begin.service}/{begin.key}"))
            return
        if self._logs_begins and isinstance(reply, Begun) and reply.created:
            subject = InvocationLog(invocation_id=begin.id, service=begin.service, handler=begin.handler)
            subject.began(level=self._engine.config.log_invocations)
        if begin.owner is None:
            self._pool.look_again()

    async def result(self, invocation_id: str) -> Outcome:
        """Wait until an invocation has ended; cancel to stop waiting, which changes nothing.

        Raises:
            NotFound: There is no such invocation.
        """
        outcome = await self._wait(invocation_id, until_paused=False)
        assert outcome is not None, "a pause does not end this wait"
        return outcome

    async def result_or_pause(self, invocation_id: str) -> Outcome | None:
        """The same, but also return at a pause, which only an operator ends, or at `drain`: None.

        Raises:
            NotFound: There is no such invocation.
        """
        return await self._wait(invocation_id, until_paused=True)

    async def _wait(self, invocation_id: str, *, until_paused: bool) -> Outcome | None:
        waiter = self._waiters.add(invocation_id, until_paused=until_paused)
        try:
            if invocation_id not in self._pool:
                row = await self.invocation(invocation_id)
                if row.id != invocation_id:
                    return await self._wait(row.id, until_paused=until_paused)
                result = row.known_result
                if result is not None or (until_paused and row.status == "paused"):
                    return result
            return await waiter
        finally:
            self._waiters.remove(invocation_id, waiter)

    def leave(self, call: WaitingCall) -> None:
        """Stop waiting for a call; if it is not being stored yet, it is not begun."""
        self._waiters.remove(call.id, call.end)
        call.begun.cancel()

    # Completing awakeables

    async def settle(self, completion: Completion) -> Verdict | None:
        """Settle a completion from outside; None for a heartbeat that was kept.

        Raises:
            Overloaded: Too many writes wait for the store already.
        """
        self._committer.refuse_if_full()
        return await self._engine.settlement.settle(completion)

    async def expectation(self, awakeable_id: str) -> Expectation | None:
        """The type that a value must have to resolve an awakeable; None if there is no such awakeable."""
        return await self._engine.validator.expectation(awakeable_id)

    def expectation_at_hand(self, awakeable_id: str) -> Expectation | None:
        """The same without a query; None if it is not in memory, whether or not the awakeable exists."""
        return self._engine.validator.at_hand(awakeable_id)

    # Operating invocations

    async def resume(self, invocation_id: str, *, by: str | None = None) -> Invocation:
        """Let a paused or backing-off invocation run again, now.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It is neither paused nor backing off.
        """
        resumed = await self._committer.commit(Resume(invocation_id=invocation_id, by=by), Resumed)
        if resumed.invocation is None and (older := await self.alias(invocation_id)) is not None:
            return await self.resume(older, by=by)
        row = existing(resumed.invocation, invocation_id)
        if not resumed.accepted:
            raise NotPossible(f"invocation {invocation_id} is {row.status}, not paused")
        self._pool.look_again()
        return row

    async def pause(self, invocation_id: str, *, by: str | None = None) -> Invocation:
        """Pause an invocation until it is resumed; one that runs is paused at its next wait, soon.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It has ended.
        """
        command = PauseInvocation(invocation_id=invocation_id, by=by)
        marked = await self._operate(command, PauseMarked, self._paused)
        if marked.invocation is None and (older := await self.alias(invocation_id)) is not None:
            return await self.pause(older, by=by)
        row = existing(marked.invocation, invocation_id)
        if not marked.accepted:
            raise NotPossible(f"invocation {invocation_id} has ended; there is nothing to pause")
        return row

    def _paused(self, marked: PauseMarked) -> None:
        if marked.accepted and marked.invocation is not None:
            if marked.invocation.status == "paused":
                self._pool.paused(marked.invocation)
            else:
                self._pool.pausing(marked.invocation.id)

    async def restart(self, invocation_id: str, *, from_entry: int = 0, by: str | None = None) -> str:
        """Begin an invocation again, under a new ID, with the same input; return that ID.

        It must have ended, or be paused; then it is killed.

        Args:
            invocation_id: The older one.
            from_entry: The last entry of its journal to keep: the new one replays it up to there. 0 keeps
                the input alone. The state of an object stays as it is now.
            by: The name of the caller's token.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It is still open, or its journal can't be cut there; the text says where it can.
        """
        row = await self.invocation(invocation_id)
        if row.status not in ("completed", "paused"):
            raise NotPossible(f"invocation {row.id} is {row.status}: pause, cancel or kill it first")
        if row.ticket == RUN:
            raise NotPossible(
                f"invocation {row.id} is the run of {row.service}/{row.key}, which is begun once: delete it "
                f"with `awakeables purge {row.id}`, and call it again"
            )
        engine = self._engine
        journal = (await engine.store.history([row.id])).get(row.id)
        if journal is None:
            raise NotFound(f"no invocation {invocation_id}")
        problem = cut_problem(journal, from_entry)
        if problem is not None:
            raise NotPossible(f"invocation {row.id} can't be restarted from entry {from_entry}: {problem}")
        given = journal[0]
        assert isinstance(given, Input)
        seed = given.seed if from_entry else engine.ids.seed()
        kept = journal[1 : from_entry + 1]
        given = msgspec.structs.replace(
            given,
            seed=seed,
            caller=None,
            depth=0,
            callers=(),
            restart_of=row.id,
            kept=from_entry,
            # What is kept was written by the version that it began with.
            version=given.version if kept else self._highest(row, given.version),
        )
        command = Restart(
            invocation_id=row.id,
            id=engine.ids.new("inv"),
            chunk=encode_chunk([given, *kept]),
            version=row.version,
            build=engine.build,
            by=by,
            versions=first_versions(given.version, markers_in(kept)),
        )
        restarted = functools.partial(self._restarted, row.status == "paused")
        reply = await self._operate(command, Restarted, restarted)
        if not reply.done:
            raise NotPossible(f"invocation {row.id} has changed meanwhile; try again")
        return command.id

    def _highest(self, row: Invocation, before: int) -> int:
        """The version that new invocations of its handler begin with; as before if the handler is gone."""
        try:
            return self.app.handler(row.service, row.handler).version
        except NotFound:
            return before

    async def purge(self, invocation_id: str) -> None:
        """Delete an invocation that has ended, now: it, its journal and its awakeables.

        With the run of a workflow go the state and the promises of its key, which is free then.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It has not ended.
        """
        row = await self.invocation(invocation_id)
        store = self._engine.store
        try:
            journal = (await store.history([row.id])).get(row.id, [])
            waits = waits_created([encode_chunk(journal)])
        except ValueSealed:
            waits = (await store.awakeables_of([row.id])).get(row.id, [])
        command = Purge(ended=(Ended(id=row.id, awakeables=tuple(waits)),), before_ms=LATEST_MS)
        purged = await self._committer.commit(command, Purged)
        if not purged.count:
            raise NotPossible(f"invocation {row.id} is {row.status}: cancel or kill it first")

    def _restarted(self, killed: bool, reply: Restarted) -> None:
        if reply.done and reply.invocation is not None:
            self._pool.stopped([*([reply.invocation] if killed else []), *reply.stopped])
            self._pool.wake(reply.wakes)
            self._pool.look_again()

    async def cancel(self, invocation_id: str, *, by: str | None = None) -> Invocation:
        """Cancel an invocation: the error is raised at its handler's next await, once (hard case 12).

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It has ended.
        """
        asked = await self._operate(Cancel(invocation_id=invocation_id, by=by), CancelMarked, self._cancelled)
        if asked.invocation is None and (older := await self.alias(invocation_id)) is not None:
            return await self.cancel(older, by=by)
        row = existing(asked.invocation, invocation_id)
        if not asked.accepted:
            raise NotPossible(f"invocation {invocation_id} has ended; there is nothing to cancel")
        return row

    def _cancelled(self, asked: CancelMarked) -> None:
        if asked.accepted and asked.invocation is not None:
            self._pool.stopped([asked.invocation])
            self._pool.wake(asked.wakes)

    async def kill(self, invocation_id: str, *, by: str | None = None) -> Invocation:
        """End an invocation at once, and those that it has called: no handler is run, nothing is compensated.

        An action of `ctx.run` that is being executed is not interrupted; its result is dropped. A handler
        that hangs in an await from asyncio stays in memory, but no longer occupies a slot.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It has ended.
        """
        killed = await self._operate(Kill(invocation_id=invocation_id, by=by), Killed, self._killed)
        if killed.invocation is None and (older := await self.alias(invocation_id)) is not None:
            return await self.kill(older, by=by)
        row = existing(killed.invocation, invocation_id)
        if not killed.done:
            raise NotPossible(f"invocation {invocation_id} has ended; there is nothing to kill")
        return row

    def _killed(self, killed: Killed) -> None:
        if killed.done and killed.invocation:
            self._pool.stopped([killed.invocation, *killed.stopped])
            self._pool.wake(killed.wakes)

    async def _operate(self, command: Command, kind: type[R], then: Callable[[R], None]) -> R:
        """Commit; `then` is called with the reply even if the caller stops waiting."""

        def done(submitted: asyncio.Future[Reply]) -> None:
            if not submitted.cancelled() and submitted.exception() is None:
                reply = submitted.result()
                if isinstance(reply, kind):
                    then(reply)

        submitted = self._committer.submit(command)
        submitted.add_done_callback(done)
        reply = await asyncio.shield(submitted)
        if not isinstance(reply, kind):
            raise TypeError(f"{type(command).__name__} got the reply {type(reply).__name__}")
        return reply

    # Operating handlers

    async def pause_handlers(self, service: str, handler: str | None, *, by: str | None = None) -> PauseRow:
        """Claim nothing of a handler, or of a whole service (None), until it is resumed.

        Calls are accepted and wait. What runs goes on to its next suspension. Other instances know within a
        second, as a rule.

        Raises:
            NotFound: The app has no such service or handler.
        """
        return await self._engine.pauses.pause(service, handler, by=by)

    async def resume_handlers(self, service: str, handler: str | None) -> Sequence[str]:
        """Resume a handler; or a service, with those of its handlers that were paused one by one.

        Returns:
            What was paused, and is not any more, as `service` or `service/handler`.

        Raises:
            NotFound: The app has no such service or handler, and there is no pause of it.
            NotPossible: The handler's whole service is paused.
        """
        return await self._engine.pauses.resume(service, handler)

    # Operating virtual objects

    async def pause_key(self, name: str, key: str, *, by: str | None = None) -> KeyStatus:
        """Let no further exclusive invocation of a key of an object begin; one that has begun goes on.

        Raises:
            NotFound: The app has no such object.
            InvalidInput: The key can't be one.
        """
        self._check_object(name, key)
        await self._committer.commit(PauseKey(service=name, key=key, by=by), KeyChanged)
        return await self.key_status(name, key)

    async def resume_key(self, name: str, key: str, *, by: str | None = None) -> KeyStatus:
        """Take back a pause of a key; one that is not paused is left as it is.

        The errors are those of `pause_key`.
        """
        self._check_object(name, key)
        await self._committer.commit(ResumeKey(service=name, key=key, by=by), KeyChanged)
        self._pool.look_again()
        return await self.key_status(name, key)

    async def edit_state(
        self, name: str, key: str, values: Mapping[str, bytes | None], *, by: str | None = None
    ) -> None:
        """Set values, as JSON, in the state of a paused key, or (None) remove them.

        A value of a name that the object declares must be of its type.

        Raises:
            NotFound: The app has no such object.
            InvalidInput: The key or a name can't be one, or a value does not fit.
            NotPossible: The key is not paused, or an invocation that has begun holds it.
        """
        declared = self._check_object(name, key)
        writes = [
            StateWrite(name=each, value=declared.stored_state(each, text)) for each, text in values.items()
        ]
        edit = EditState(service=name, key=key, writes=tuple(writes), by=by)
        changed = await self._committer.commit(edit, KeyChanged)
        if not changed.accepted:
            held = changed.queue
            holder = None if held is None or held.paused_ms is None else held.head
            why = "is not paused" if holder is None else f"is held by {holder}, which has begun"
            raise NotPossible(
                f"{name}/{key} {why}: pause it, and wait until no invocation holds it, or kill that one"
            )

    # Operating the outbox, dead letters and offsets

    async def resend(self, dead_letter_id: str, *, by: str | None = None) -> Effect:
        """Resend a dead letter to the topic that it came from.

        Raises:
            NotFound: There is no such dead letter.
            NotPossible: Its bytes were not kept; or it is a task that nobody awaits, or of another topic.
        """
        command = Resend(dead_letter_id=dead_letter_id, event_id=self.new_id("evt"), by=by)
        resent = await self._committer.commit(command, Resent)
        if resent.dead_letter is None:
            raise NotFound(f"no dead letter {dead_letter_id}")
        if resent.effect is None:
            raise NotPossible(resent.refusal or f"dead letter {dead_letter_id} can't be resent")
        self._relay.poke()
        return resent.effect

    async def purge_dead_letters(self, *, older_than: timedelta, code: str | None) -> int:
        """Delete dead letters, of a code or all, in small commits; return how many."""
        return await self._engine.retention.purge_letters(older_than=older_than, code=code)

    async def republish(self, event_id: str, *, by: str | None = None) -> Effect:
        """Resend a record that Kafka has refused; later ones of its invocation have overtaken it.

        Raises:
            NotFound: There is no such record in the outbox.
            NotPossible: It carries an awakeable.
        """
        republished = await self._committer.commit(Republish(event_id=event_id, by=by), Republished)
        queued = republished.queued
        if queued is None:
            raise NotFound(f"no record {event_id} in the outbox")
        task = queued.effect.task
        if not republished.accepted and task is not None:
            raise NotPossible(
                f"record {event_id} carries awakeable {task.awakeable_id}, which was rejected with "
                "publish-failed, if it was still pending, when Kafka refused the record: nobody waits for "
                "its answer any more; start the work again instead"
            )
        self._relay.poke()
        return queued.effect

    async def skip(self, partition: int, to: int | None, *, by: str | None = None) -> PartitionProgress:
        """Move a partition of the completions topic to an offset, or past the batch that it is stuck at.

        Raises:
            NotFound: The partition was never read.
            NotPossible: It is not stuck, is at that offset already, or ends before it.
        """
        return await self._offsets.skip(partition, to, by=by)

    def functions(self) -> Sequence[FunctionStatus]:
        """What this instance knows of the functions of the app's remote services."""
        return () if self._functions is None else self._functions.statuses()

    async def refresh_function(self, service: str) -> FunctionStatus:
        """Read again which handlers the function of a remote service has, for this instance.

        Raises:
            NotFound: There is no such remote service.
            OperatorError: It does not answer, or has what can't be served; what was known stays.
        """
        if self._functions is None:
            raise NotFound(f"no remote service {service}; the app has none")
        return await self._functions.refresh(service)

    async def pause_subscription(self, name: str) -> SubscriptionProgress:
        """Begin nothing for the records of a subscription until it is resumed; what has begun goes on.

        Raises:
            NotFound: There is no such subscription.
            NotPossible: It has not begun, because its topic was never there.
        """
        return await self._subscriptions.pause(name)

    async def resume_subscription(self, name: str) -> SubscriptionProgress:
        """Go on with a subscription where it was paused, or where it was moved to.

        Raises:
            NotFound: There is no such subscription.
            NotPossible: It has not begun, because its topic was never there.
        """
        return await self._subscriptions.resume(name)

    async def seek(
        self, name: str, to: SeekTo, *, partition: int | None = None, by: str | None = None
    ) -> list[Move]:
        """Move a paused subscription, whole or one partition; records may be read again, or never.

        Raises:
            NotFound: There is no such subscription, or no such partition.
            NotPossible: It is not paused, or has not begun.
            InvalidInput: The offset is not in the partition, or there are several partitions.
            BrokerUnavailable: The broker did not answer.
        """
        return await self._subscriptions.seek(name, to, partition=partition, by=by)

    async def pause_schedule(self, name: str) -> ScheduleStatus:
        """Begin nothing for the ticks of a schedule until it is resumed; what has begun goes on.

        Raises:
            NotFound: There is no such schedule.
        """
        return await self._schedules.pause(name)

    async def resume_schedule(self, name: str) -> ScheduleStatus:
        """Go on with a schedule at its next tick; those that have passed meanwhile are skipped.

        Raises:
            NotFound: There is no such schedule.
            NotPossible: A release wrote it that this one can't read.
        """
        return await self._schedules.resume(name)

    async def trigger_schedule(self, name: str, *, by: str | None = None) -> str | None:
        """Begin the handler of a schedule now; its ID, or None if that waits for the last one to end.

        Raises:
            NotFound: There is no such schedule.
            NotPossible: The last invocation is open, or this instance's code does not declare the schedule.
        """
        return await self._schedules.trigger(name, by=by)

    # Its state

    async def schedules(self) -> list[ScheduleStatus]:
        """All schedules, by name; also those that the store has and this app does not declare."""
        return await self._schedules.show()

    async def subscriptions(self) -> list[SubscriptionProgress]:
        """How far each subscription has read its topic, by name; also those that only the store knows."""
        return await self._subscriptions.show()

    async def partitions(self) -> Sequence[PartitionProgress]:
        """How far each partition of the completions topic was read, in order."""
        return await self._offsets.show()

    async def instances(self) -> list[InstanceStatus]:
        """The instances that share the store, those that have died lately included, by ID."""
        store, topic = self._engine.store, self._engine.completions.name
        positions = await store.positions(topic)
        return [
            InstanceStatus(
                instance=each,
                invocations=len(await store.held_by(each.id)),
                partitions=tuple(p.partition for p in positions if p.owner == each.id),
                is_this=each.id == self._engine.member.id,
            )
            for each in await store.membership.instances()
        ]

    def drain(self) -> None:
        """Begin nothing from now on, and end the waits of calls; the engine does the rest of draining."""
        self._draining = True
        self._waiters.release()

    @property
    def draining(self) -> bool:
        """Whether the service is stopping and begins nothing new."""
        return self._draining or self._pool.stopping

    def readiness(self) -> Readiness:
        """Whether work is accepted, and the current problems."""
        board = dict(self._engine.problems)
        if self.draining:
            board["service"] = DRAINING
        elif not self._engine.serving.is_set():
            board["service"] = STARTING
        return Readiness.of(board)


def _check_key(handler: Handler, key: str | None) -> None:
    where = f"{handler.service}/{handler.name}"
    if handler.keyed:
        problem = key_problem(key)
        if problem is not None:
            raise InvalidInput(f"{where} is a handler of an object, which is called for a key: {problem}")
    elif key is not None:
        raise InvalidInput(f"{where} is a handler of a service, which has no keys")
