"""Group commit: what is asked for in one turn of the loop, by whomever, commits together."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import structlog

from awakeables.core.backoff import Backoff
from awakeables.core.commands import Advance, Begin, Cancel, Command, Kill, Probe, Resume
from awakeables.core.replies import Claimed, ClaimedEffects, Expired, Purged, Reply
from awakeables.errors import Overloaded, StoreUnavailable
from awakeables.ports import Commits
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics

log = structlog.stdlib.get_logger(__name__)
A = TypeVar("A", bound=Reply)

OnReply: TypeAlias = Callable[[Reply | Exception], None]
"""Called once it is known what became of a member: with its answer, now durable, or the store's refusal."""

GivenUp: TypeAlias = Callable[[], bool]
"""Does nobody want a member to be committed any more?"""

Queued: TypeAlias = tuple[Command, OnReply, GivenUp | None]

NOTHING_FOUND: tuple[Reply, ...] = (
    Expired(wakes=()),
    Claimed(invocations=()),
    ClaimedEffects(effects=()),
    Purged(count=0),
)
"""Answers of a look at the rows that has changed nothing: on a service at rest they are most of all."""

LAZY_S = 0.05
"""How long a member that nobody waits for may wait for company."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
"""Back-off while the store is down: soon enough that nobody notices a hiccup."""

HANGS_S = 10.0
"""A commit that takes longer hangs: SQLite gives up waiting for another process's lock after 5 s."""


class Committer:
    """Collects members and commits them in groups, in the order in which they were submitted.

    While the store is down the group is kept and sent again: members can be repeated
    (core/commands.py). A member that its caller has given up meanwhile is dropped, without a reply.

    A commit that fails, or hangs, makes the store *down*; only a commit that has written ends that.
    Most commits of a service at rest find nothing to write, and a full disk lets them pass; and when
    every caller has given up there is nothing to commit. So while the store is down each group has a
    probe with it, and an empty group is a probe alone.
    """

    def __init__(
        self,
        store: Commits,
        *,
        max_members: int = 2000,
        max_waiting: int = 20_000,
        metrics: Metrics | None = None,
        on_store: Callable[[str | None], None] = lambda _problem: None,
    ) -> None:
        """Serve a store.

        Args:
            store: What is written to.
            max_members: Bound of one transaction, so that none takes long.
            max_waiting: Bound of the queue; past it `refuse_if_full` does.
            metrics: Where commits are counted.
            on_store: Called with what is wrong when the store goes down, with None when it is back.
        """
        self._store = store
        self._max_members = max_members
        self._max_waiting = max_waiting
        self._queue: deque[Queued] = deque()
        self._metrics = metrics or Metrics()
        self._metrics.commit_waiting.set_function(lambda: len(self._queue))
        self._wanted = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None
        self._down = False
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._idle = asyncio.Event()
        self._idle.set()
        self._on_store = on_store

    def post(
        self, member: Command, reply: OnReply, *, lazily: bool = False, given_up: GivenUp | None = None
    ) -> None:
        """Queue a member.

        Args:
            member: What to write.
            reply: Called once it is durable, or refused; it must not raise.
            lazily: Nobody waits for it: let it ride with the next group.
            given_up: Asked before each try; true: drop the member, and never reply.
        """
        self._queue.append((member, reply, given_up))
        self._idle.clear()
        if not lazily:
            self._wanted.set()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(LAZY_S, self._enough)

    def submit(self, member: Command, *, lazily: bool = False) -> asyncio.Future[Reply]:
        """The same as a future; to cancel it gives the member up."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.post(member, functools.partial(resolve, future), lazily=lazily, given_up=future.cancelled)
        return future

    async def commit(self, member: Command, answer: type[A]) -> A:
        """Submit and wait; for members with one kind of answer.

        Raises:
            StoreRefused: The store will never take it.
        """
        got = await self.submit(member)
        if not isinstance(got, answer):
            raise TypeError(f"{type(member).__name__} was answered with {type(got).__name__}")
        return got

    def _enough(self) -> None:
        """What was submitted lazily has waited long enough, if it is not committed yet."""
        self._later = None
        if self._queue:
            self._wanted.set()

    async def run(self) -> None:
        """Commit for ever; cancel to stop."""
        while True:
            await self._wanted.wait()
            # Whoever is woken in this turn of the loop is in time for the group: the first step
            # of a new invocation is committed with its beginning.
            await asyncio.sleep(0)
            self._wanted.clear()
            while self._queue or self._down:
                group = [self._queue.popleft() for _ in range(min(self._max_members, len(self._queue)))]
                if not group:
                    self._idle.set()
                await self._commit(group)
            self._idle.set()

    def refuse_if_full(self) -> None:
        """Keep new work out while the store is behind; work that was begun is never refused.

        Raises:
            Overloaded: The queue is full.
        """
        if len(self._queue) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} writes wait for the store; try again later")

    @property
    def idle(self) -> bool:
        return self._idle.is_set()

    async def drained(self) -> None:
        """Wait until nothing is queued or under way."""
        self._wanted.set()
        await self._idle.wait()

    async def _commit(self, group: Sequence[Queued]) -> None:
        while True:
            group = [queued for queued in group if queued[2] is None or not queued[2]()]
            members: list[Command] = [member for member, _, _ in group]
            if self._down:
                members.append(Probe())
            if not members:
                return
            proves = self._down
            try:
                answers = await self._timed(members)
            except Exception as error:
                if group and not isinstance(error, StoreUnavailable):
                    await self._bisect(group, error)
                    return
                self._metrics.failed_commits["unavailable"].inc()
                self._lose(str(error))
                await asyncio.sleep(self._backoff.next_s())
                if all(given_up is not None and given_up() for _, _, given_up in group):
                    # Nobody waits for this group any more: what came meanwhile is next.
                    return
            else:
                for (_, reply, _), answer in zip(group, answers[: len(group)], strict=True):
                    reply(answer)
                if proves:
                    self._find()
                return

    def _lose(self, problem: str) -> None:
        """The store can't write, or it isn't known whether it can."""
        if not self._down:
            self._down = True
            log.error(events.STORE_DOWN, error=problem)
            self._on_store(problem)

    def _find(self) -> None:
        """The store has written."""
        self._down = False
        self._backoff.reset()
        log.info(events.STORE_BACK)
        self._on_store(None)

    async def _timed(self, members: Sequence[Command]) -> list[Reply]:
        loop = asyncio.get_running_loop()
        now, began = loop.time, loop.time()
        hangs = loop.call_later(HANGS_S, self._lose, f"a commit has not returned for {HANGS_S:.0f} s")
        try:
            answers = await self._store.commit(members)
        finally:
            hangs.cancel()
        if any(answer not in NOTHING_FOUND for answer in answers):
            self._metrics.commit_s.observe(now() - began)
            self._metrics.commit_members.observe(len(members))
        return answers

    async def _bisect(self, group: Sequence[Queued], error: Exception) -> None:
        """Find the member that can't be committed, so that the others are (hard case 2)."""
        if len(group) > 1:
            middle = len(group) // 2
            await self._commit(group[:middle])
            await self._commit(group[middle:])
            return
        [(member, reply, _)] = group
        self._metrics.failed_commits["refused"].inc()
        log.error(events.MEMBER_REFUSED, **_facts(member), error=str(error))
        reply(error)


def resolve(future: asyncio.Future[Reply], answer: Reply | Exception) -> None:
    """Hand a reply on to a future."""
    if future.cancelled():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
        # Some futures have nobody who waits; the failure was logged.
        future.exception()
    else:
        future.set_result(answer)


def _facts(member: Command) -> dict[str, str]:
    """What a log line says of a member: also whom it is about, if that is an invocation."""
    facts = {"member": type(member).__name__}
    match member:
        case Begin():
            facts["invocation_id"] = member.id
        case Advance() | Resume() | Cancel() | Kill():
            facts["invocation_id"] = member.invocation_id
        case _:
            pass
    return facts
