"""Group commit: commands that are posted in the same turn of the event loop are committed together."""

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
"""Called with a command's reply once it is durable, or with the error for which the store refuses it."""

GivenUp: TypeAlias = Callable[[], bool]
"""Whether nobody waits for a command any more."""

Queued: TypeAlias = tuple[Command, OnReply, GivenUp | None]

NOTHING_FOUND: tuple[Reply, ...] = (
    Expired(wakes=()),
    Claimed(invocations=()),
    ClaimedEffects(effect_ids=()),
    Purged(count=0),
)
"""Replies to searches that found nothing and wrote nothing, as most commits of an idle service do: counted,
they would hide how long writing takes."""

LAZY_S = 0.05
"""How long a command that nobody waits for may be delayed to join a group."""

BUSY = 8
ENOUGH = 32
GATHER_S = 0.002
"""After a group of at least `BUSY` commands, the next one waits this long for half as many to come, at most
`ENOUGH`. A commit costs as much as several commands, and what follows from it comes as a group, too: tasks,
their answers, requests. PostgreSQL has `commit_delay` and `commit_siblings` for the same."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
"""Back-off while the store is down: short at first, so that a hiccup goes unnoticed."""

PATIENT = 2
"""How often a group may fail before it is halved."""

HANGS_S = 10.0
"""A commit that takes longer hangs: SQLite gives up waiting for another process's lock after 5 s."""


class Committer:
    """Queues commands and commits them in groups, in the order in which they were posted.

    While the store is down, the group is kept and sent again, which is safe because commands can be
    repeated (core/commands.py). A command that its caller has given up meanwhile is dropped without a
    reply.

    A commit that fails or hangs makes the store *down*; only a commit that has written makes it
    available again. Most commits of an idle service write nothing, and would succeed on a full disk;
    and if every caller has given up, there is nothing to commit. So while the store is down each group
    also has a probe, which always writes, and an empty group is a probe alone.
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
            store: Where commands are committed.
            max_members: Bound of the commands of one transaction, so that none takes long.
            max_waiting: Bound of the queue, above which `refuse_if_full` refuses.
            metrics: Where commits are counted.
            on_store: Called with the problem when the store goes down, with None when it is back.
        """
        self._store = store
        self._max_members = max_members
        self._max_waiting = max_waiting
        self._queue: deque[Queued] = deque()
        self._metrics = metrics or Metrics()
        self._metrics.commit_waiting.set_function(lambda: len(self._queue))
        self._wanted = asyncio.Event()
        self._is_wanted = False
        self._lazy_timer: asyncio.TimerHandle | None = None
        self._down = False
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._no_group = asyncio.Event()
        self._no_group.set()
        self._on_store = on_store

    def post(
        self, command: Command, on_reply: OnReply, *, lazily: bool = False, given_up: GivenUp | None = None
    ) -> None:
        """Queue a command.

        Args:
            command: What to commit.
            on_reply: Called once it is durable or refused; must not raise.
            lazily: Nobody waits for it: wait a moment for a group to join.
            given_up: Asked before each try; if true, the command is dropped without a reply.
        """
        self._queue.append((command, on_reply, given_up))
        if lazily:
            if self._lazy_timer is None:
                self._lazy_timer = asyncio.get_running_loop().call_later(LAZY_S, self._on_lazy_timer)
        elif not self._is_wanted:
            # The flag saves a call for each further command of the group.
            self._is_wanted = True
            self._wanted.set()

    def submit(self, command: Command, *, lazily: bool = False) -> asyncio.Future[Reply]:
        """Queue a command and return its reply as a future; cancelling that gives the command up."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.post(command, functools.partial(resolve, future), lazily=lazily, given_up=future.cancelled)
        return future

    async def commit(self, command: Command, reply: type[A]) -> A:
        """Commit a command whose reply is of one type, and wait for it.

        Raises:
            StoreRefused: The store will never accept it.
        """
        got = await self.submit(command)
        if not isinstance(got, reply):
            raise TypeError(f"{type(command).__name__} got the reply {type(got).__name__}")
        return got

    def _on_lazy_timer(self) -> None:
        self._lazy_timer = None
        if self._queue:
            self._wanted.set()

    async def run(self) -> None:
        """Commit until cancelled."""
        before = 0
        while True:
            await self._wanted.wait()
            # What is ready to run in this turn of the loop may still join the group: the requests
            # that have arrived together are committed together.
            await asyncio.sleep(0)
            self._is_wanted = False
            self._wanted.clear()
            while self._queue or self._down:
                if before >= BUSY and len(self._queue) < min(before // 2, ENOUGH):
                    await asyncio.sleep(GATHER_S)
                group: list[Queued] = []
                while self._queue and len(group) < self._max_members:
                    group.append(self._queue.popleft())
                if group:
                    self._no_group.clear()
                else:  # a probe alone, which nobody waits for
                    self._no_group.set()
                await self._commit(group)
                before = len(group)
            self._no_group.set()

    def refuse_if_full(self) -> None:
        """Refuse new work while the store is behind; work that has begun is never refused.

        Raises:
            Overloaded: The queue is full.
        """
        if len(self._queue) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} writes wait for the store; try again later")

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or being committed."""
        return not self._queue and self._no_group.is_set()

    async def drained(self) -> None:
        """Wait until nothing is queued or being committed."""
        if self._queue:
            self._no_group.clear()
            self._wanted.set()
        await self._no_group.wait()

    async def _commit(self, group: Sequence[Queued]) -> None:
        """Commit a group, however long the store is down; return early if all its callers give up.

        A group that fails again and again is committed by halves: it may take longer than the store allows.
        """
        failures = 0
        while True:
            waited_for: list[Queued] = []
            commands: list[Command] = []
            for queued in group:
                command, _, given_up = queued
                if given_up is None or not given_up():
                    waited_for.append(queued)
                    commands.append(command)
            group, has_probe = waited_for, self._down
            if has_probe:
                commands.append(Probe())
            if not commands:
                return
            try:
                replies = await self._timed(commands)
            except Exception as error:
                if group and not isinstance(error, StoreUnavailable):
                    await self._bisect(group, error)
                    return
                self._metrics.failed_commits["unavailable"].inc()
                self._mark_down(str(error))
                await asyncio.sleep(self._backoff.next_s())
                failures += 1
                if failures > PATIENT and len(group) > 1:
                    await self._halve(group)
                    return
                if all(given_up is not None and given_up() for _, _, given_up in group):
                    # `run` goes on with what has been queued meanwhile, which must not wait for nothing.
                    return
            else:
                for (_, on_reply, _), reply in zip(group, replies[: len(group)], strict=True):
                    on_reply(reply)
                if has_probe:
                    self._mark_available()
                return

    async def _timed(self, commands: Sequence[Command]) -> list[Reply]:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        hangs = loop.call_later(HANGS_S, self._mark_down, f"a commit has not returned for {HANGS_S:.0f} s")
        try:
            replies = await self._store.commit(commands)
        finally:
            hangs.cancel()
        for reply in replies:
            if reply not in NOTHING_FOUND:
                self._metrics.commit_s.observe(loop.time() - began_s)
                self._metrics.commit_members.observe(len(commands))
                break
        return replies

    def _mark_down(self, problem: str) -> None:
        """The store can't write, or it is not known whether it can."""
        if not self._down:
            self._down = True
            log.error(events.STORE_DOWN, error=problem)
            self._on_store(problem)

    def _mark_available(self) -> None:
        self._down = False
        self._backoff.reset()
        log.info(events.STORE_BACK)
        self._on_store(None)

    async def _halve(self, group: Sequence[Queued]) -> None:
        middle = len(group) // 2
        await self._commit(group[:middle])
        await self._commit(group[middle:])

    async def _bisect(self, group: Sequence[Queued], error: Exception) -> None:
        """Find the command that the store refuses, so that the others are committed (hard case 2)."""
        if len(group) > 1:
            await self._halve(group)
            return
        [(command, on_reply, _)] = group
        self._metrics.failed_commits["refused"].inc()
        log.error(events.MEMBER_REFUSED, **_log_fields(command), error=str(error))
        on_reply(error)


def resolve(future: asyncio.Future[Reply], reply: Reply | Exception) -> None:
    """Resolve a future with a command's reply or error, unless it was cancelled."""
    if future.cancelled():
        return
    if isinstance(reply, Exception):
        future.set_exception(reply)
        # Marked as retrieved: not every future is awaited, and the failure has been logged.
        future.exception()
    else:
        future.set_result(reply)


def _log_fields(command: Command) -> dict[str, str]:
    """What the log says about a command: its type and, if it is about an invocation, which one."""
    fields = {"command": type(command).__name__}
    match command:
        case Begin():
            fields["invocation_id"] = command.id
        case Advance() | Resume() | Cancel() | Kill():
            fields["invocation_id"] = command.invocation_id
        case _:
            pass
    return fields
