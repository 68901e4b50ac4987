"""The application service: every operation on a running engine, in one class.

HTTP, the commands that serve an app, the testing kit and a host process all call this and nothing behind
it. A method returns once its effect is durable, and otherwise raises an error of `errors.py`. It knows
nothing about transports: client time-outs, tokens and wording belong to the caller.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec
import structlog

from awakeables.core.awakeables import Completion, Verdict
from awakeables.core.commands import Begin, Cancel, Idempotency, Kill, Republish, Resend, Resume
from awakeables.core.effects import Effect
from awakeables.core.ids import IdKind
from awakeables.core.instances import Instance
from awakeables.core.invocations import KILLED, Invocation
from awakeables.core.journal import Input, encode_chunk
from awakeables.core.outcomes import Outcome
from awakeables.core.replies import (
    Begun,
    CancelMarked,
    KeyConflict,
    Killed,
    Reply,
    Republished,
    Resent,
    Resumed,
)
from awakeables.engine.engine import Engine
from awakeables.engine.invocationlog import InvocationLog
from awakeables.engine.offsets import PartitionProgress, TopicProgress
from awakeables.engine.readiness import Readiness
from awakeables.engine.waiters import Waiter
from awakeables.errors import IdempotencyConflict, NotFound, NotPossible, Overloaded
from awakeables.handlers.service import Handler
from awakeables.ports import Expectation
from awakeables.queries import Queries, existing, idempotency_scope

__all__ = ["Api", "InstanceStatus", "PartitionProgress", "Readiness", "idempotency_scope"]

log = structlog.stdlib.get_logger(__name__)

STARTING = "starting"
DRAINING = "draining"
"""The name of the service's own problem in readiness."""


class Call(NamedTuple):
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

    def __init__(self, engine: Engine) -> None:
        """Give access to an engine. Commands work while it runs, queries as long as its store is open."""
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
        self._offsets = TopicProgress(engine.completions, engine.store, engine.problems)

    def new_id(self, kind: IdKind) -> str:
        """A new ID for something that the caller creates, such as a completion's source."""
        return self._engine.ids.new(kind)

    # Calling handlers

    async def begin(
        self,
        handler: Handler,
        content: bytes | None,
        *,
        headers: Mapping[str, str] | None = None,
        idempotency: Idempotency | None = None,
        delay: timedelta = timedelta(0),
        by: str | None = None,
    ) -> Begun:
        """Create an invocation; when this returns, it is durable and will run.

        Args:
            handler: A handler of the app.
            content: Its input as returned by `Handler.accept`.
            headers: The caller's headers, for `ctx.request`.
            idempotency: The caller's key; the same key and fingerprint give the same invocation.
            delay: How much later to begin.
            by: The name of the caller's token, kept with the invocation.

        Raises:
            Overloaded: Too many calls wait already; nothing was created.
            IdempotencyConflict: The key was used for another request.
        """
        _, submitted = self._submit(
            handler, content, headers or {}, idempotency=idempotency, delay=delay, by=by
        )
        reply = await submitted
        if isinstance(reply, KeyConflict):
            raise IdempotencyConflict(
                f"the idempotency key {idempotency.key if idempotency else ''!r} was used for another request"
            )
        if not isinstance(reply, Begun):
            raise TypeError(f"Begin got the reply {type(reply).__name__}")
        return reply

    def call(
        self, handler: Handler, content: bytes | None, *, headers: dict[str, str], by: str | None = None
    ) -> Call:
        """Create an invocation and wait for its end, without waiting for its beginning first.

        The arguments are those of `begin`.

        Raises:
            Overloaded: Too many calls wait already; nothing was created.
        """
        begin, submitted = self._submit(handler, content, headers, by=by)
        return Call(begin.id, submitted, self._waiters.add(begin.id, until_paused=True))

    def _submit(
        self,
        handler: Handler,
        content: bytes | None,
        headers: Mapping[str, str],
        *,
        idempotency: Idempotency | None = None,
        delay: timedelta = timedelta(0),
        by: str | None = None,
    ) -> tuple[Begin, asyncio.Future[Reply]]:
        engine = self._engine
        if self.draining or not engine.serving.is_set():
            raise Overloaded("the service is starting or stopping; try again later")
        self._committer.refuse_if_full()
        if len(self._waiters) >= self._most_waiters:
            raise Overloaded("too many calls wait to run; try again later")
        is_json = handler.input.kind == "json"
        given = Input(
            service=handler.service,
            handler=handler.name,
            seed=engine.entropy.bytes(16).hex(),
            at_ms=engine.clock.now_ms(),
            headers=dict(headers),
            value=msgspec.UNSET if content is None or not is_json else msgspec.Raw(content),
            value_base64=msgspec.UNSET if content is None or is_json else content,
        )
        # Not at once by an instance that may be declared dead before the row is written.
        at_once = idempotency is None and not delay and self._pool.may_begin()
        begin = Begin(
            id=engine.ids.new("inv"),
            service=handler.service,
            handler=handler.name,
            chunk=encode_chunk([given]),
            owner=engine.member.id if at_once else None,
            delay_ms=delay // timedelta(milliseconds=1),
            idempotency=idempotency,
            build=engine.build,
            by=by,
            origin=None if engine.member.alone else engine.member.id,
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
                if row.result is not None or (until_paused and row.status == "paused"):
                    return row.result
            return await waiter
        finally:
            self._waiters.remove(invocation_id, waiter)

    def leave(self, call: Call) -> None:
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
        row = existing(resumed.invocation, invocation_id)
        if not resumed.accepted:
            raise NotPossible(f"invocation {invocation_id} is {row.status}, not paused")
        self._pool.look_again()
        return row

    async def cancel(self, invocation_id: str, *, by: str | None = None) -> Invocation:
        """Cancel an invocation: the error is raised at its handler's next await, once (hard case 12).

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It has ended.
        """
        submitted = self._committer.submit(Cancel(invocation_id=invocation_id, by=by))
        submitted.add_done_callback(self._cancelled)
        # The caller may stop waiting; the runner is notified, or the waiters answered, all the same.
        asked = await asyncio.shield(submitted)
        if not isinstance(asked, CancelMarked):
            raise TypeError(f"Cancel got the reply {type(asked).__name__}")
        row = existing(asked.invocation, invocation_id)
        if not asked.accepted:
            raise NotPossible(f"invocation {invocation_id} has ended; there is nothing to cancel")
        return row

    def _cancelled(self, submitted: asyncio.Future[Reply]) -> None:
        if submitted.cancelled() or submitted.exception() is not None:
            return
        asked = submitted.result()
        row = asked.invocation if isinstance(asked, CancelMarked) and asked.accepted else None
        if row is None or self._pool.cancelled(row.id):
            return
        self._engine.hints.cancelled(row)
        if row.result is not None:
            self._pool.ended(row, row.result)
        else:
            self._pool.look_again()

    async def kill(self, invocation_id: str, *, by: str | None = None) -> Invocation:
        """End an invocation at once, without running its handler: nothing is compensated.

        An action of `ctx.run` that is being executed is not interrupted; its result is dropped. A handler
        that hangs in an await from asyncio stays in memory, but no longer occupies a slot.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It has ended.
        """
        submitted = self._committer.submit(Kill(invocation_id=invocation_id, by=by))
        submitted.add_done_callback(self._killed)
        # The caller may stop waiting; the commit still ends the invocation and answers its waiters.
        killed = await asyncio.shield(submitted)
        if not isinstance(killed, Killed):
            raise TypeError(f"Kill got the reply {type(killed).__name__}")
        row = existing(killed.invocation, invocation_id)
        if not killed.done:
            raise NotPossible(f"invocation {invocation_id} has ended; there is nothing to kill")
        return row

    def _killed(self, submitted: asyncio.Future[Reply]) -> None:
        if submitted.cancelled() or submitted.exception() is not None:
            return
        killed = submitted.result()
        if isinstance(killed, Killed) and killed.done and killed.invocation:
            self._pool.detach(killed.invocation.id)
            self._pool.ended(killed.invocation, KILLED)

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

    # Its state

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
