"""Instances that share one store and read the completions topic as members of one consumer group.

They stand for processes: each has an owner's name, a committer, a horizon and a board of its own. The
handlers run in the service that they belong to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from awakeables.core.commands import Command, TakePartitions
from awakeables.core.replies import Fenced, Reply
from awakeables.engine.committer import Committer
from awakeables.engine.completionstopic import CompletionsTopic
from awakeables.engine.horizon import Horizon
from awakeables.engine.readtopic import FoldingSettings, Reading
from awakeables.engine.settlement import Settlement
from awakeables.errors import StoreUnavailable
from awakeables.kafka import topicconsumer
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topicconsumer import TopicConsumer
from support.eventually import eventually
from support.service import READING, Running

if TYPE_CHECKING:
    import pytest
    from aiokafka import AIOKafkaConsumer

    from awakeables.ports import Store

SESSION = timedelta(seconds=1)
"""Members that die are missed after this long; ten seconds in production."""

HORIZON_MS = 900_000


class SharedStore:
    """One instance's way to the store, which a test can close.

    Attributes:
        fenced: How many of its commands were fenced.
        fenced_s: When the last of them was, in the event loop's time.
        claimed_s: When it has claimed partitions.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.down = False
        self.fenced = 0
        self.fenced_s = 0.0
        self.claimed_s: list[float] = []
        self.open = asyncio.Event()
        self.open.set()

    async def commit(self, members: Sequence[Command]) -> list[Reply]:
        await self.open.wait()
        if self.down:
            raise StoreUnavailable("the network is cut")
        now_s = asyncio.get_running_loop().time
        self.claimed_s += [now_s() for member in members if isinstance(member, TakePartitions)]
        replies = await self._store.commit(members)
        fenced = sum(isinstance(reply, Fenced) for reply in replies)
        self.fenced += fenced
        self.fenced_s = now_s() if fenced else self.fenced_s
        return replies


@dataclass(kw_only=True, eq=False)
class Member:
    """One instance.

    Attributes:
        clients: The consumers that it has had, the newest last.
    """

    name: str
    store: SharedStore
    topic: CompletionsTopic
    committer: Committer
    consumer: TopicConsumer
    problems: dict[str, str]
    clients: list[AIOKafkaConsumer] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def reading(self) -> frozenset[int]:
        return self.consumer.reading

    @property
    def horizon(self) -> Horizon:
        return self.topic.horizon

    def freeze(self) -> None:
        """The group hears nothing of it any more, nor it of the group: it is cut off, and reads on."""

        async def hang(_request: object) -> None:
            await asyncio.Event().wait()

        self.clients[-1]._coordinator._send_req = hang

    def thaw(self) -> None:
        coordinator = self.clients[-1]._coordinator
        del coordinator._send_req
        # What hung is lost, as an answer on a connection that was cut.
        coordinator._heartbeat_task.cancel()
        coordinator._heartbeat_task = None
        coordinator.reset_generation()

    async def leave(self) -> None:
        """Stop properly."""
        for task in self.tasks:
            task.cancel()
        _, left = await asyncio.wait(self.tasks, timeout=20)
        for task in left:
            task.print_stack()
        assert not left
        self.tasks.clear()

    async def crash(self) -> None:
        """Stop without a word to the group."""

        async def say_nothing() -> None:
            pass

        for client in self.clients:
            if client._coordinator is not None:  # it has joined
                client._coordinator._maybe_leave_group = say_nothing
        await self.leave()


class Members:
    """The instances of an app."""

    def __init__(self, shop: Running, bootstrap: str) -> None:
        self.shop = shop
        self.bootstrap = bootstrap
        self.all: list[Member] = []
        self.number = 0

    @property
    def alive(self) -> list[Member]:
        return [member for member in self.all if member.tasks]

    def join(
        self,
        *,
        stuck: timedelta = timedelta(seconds=30),
        session: timedelta = SESSION,
        bootstrap: str | None = None,
    ) -> Member:
        """Start one more instance, with this way to the broker; None: the service's."""
        engine = self.shop.engine
        self.number += 1
        name = f"member-{self.number}"
        store = SharedStore(self.shop.store)
        committer = Committer(store)
        horizon = Horizon(engine.clock, longest_ms=HORIZON_MS)
        settlement = Settlement(
            committer,
            engine.validator,
            horizon,
            ids=engine.ids,
            verdicts_topic="",
            metrics=engine.metrics,
            on_wakes=engine.pool.wake,
            on_effects=engine.relay.poke,
            on_begun=engine.pool.look_again,
        )
        reading = Reading(
            committer=committer,
            store=engine.store,
            owner=lambda: name,
            dead_letter_topic=self.shop.app.dead_letter_topic,
            clock=engine.clock,
            ids=engine.ids,
            folding=FoldingSettings(),
            metrics=engine.metrics,
            on_effects=engine.relay.poke,
        )
        topic = CompletionsTopic(
            reading, settlement, engine.validator, horizon, name=self.shop.app.completions_topic
        )
        problems: dict[str, str] = {}
        consumer = TopicConsumer(
            KafkaConnection(bootstrap=bootstrap or self.bootstrap, client_id=name, session_timeout=session),
            topic,
            group=self.shop.app.name,
            clock=engine.clock,
            problems=problems,
            grouped=True,
            settings=replace(READING, ahead_retry=timedelta(milliseconds=300)),
            stuck=stuck,
        )
        member = Member(
            name=name, store=store, topic=topic, committer=committer, consumer=consumer, problems=problems
        )
        self.all.append(member)
        member.tasks = [asyncio.create_task(committer.run()), asyncio.create_task(consumer.run())]
        return member

    async def share(self, partitions: Collection[int], *, to_end: bool = True) -> None:
        """Wait until the living share these partitions evenly, and have read them to their end."""

        def shared() -> bool:
            read = [member.reading for member in self.alive]
            sizes = [len(reading) for reading in read]
            return (
                sorted(n for reading in read for n in reading) == sorted(partitions)
                and max(sizes) - min(sizes) <= 1
                and all(member.horizon.read.keys() == member.reading or not to_end for member in self.alive)
            )

        await eventually(shared, timeout=15)

    def reader_of(self, partition: int) -> Member:
        [reader] = [member for member in self.alive if partition in member.reading]
        return reader


@asynccontextmanager
async def grouped(shop: Running, bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Members]:
    """The instances of a service, none at first; all leave at the end of the block."""
    members = Members(shop, bootstrap)
    new_client = topicconsumer.AIOKafkaConsumer  # type: ignore[attr-defined]

    def captured(*args: Any, **options: Any) -> AIOKafkaConsumer:
        client = new_client(*args, **options)
        for member in members.all:
            if member.name == options["client_id"]:
                member.clients.append(client)
        return client

    monkeypatch.setattr(topicconsumer, "AIOKafkaConsumer", captured)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_leave_all, members)
        yield members


async def _leave_all(members: Members) -> None:
    for member in members.alive:
        member.store.open.set()
    with suppress(ValueError):
        await asyncio.wait([asyncio.create_task(member.leave()) for member in members.alive])
