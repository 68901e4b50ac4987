"""Several instances: load on all of them, faults at random moments, everything awaited, then the audit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics
from awakeables.world import SystemClock
from e2e.chaos.books import PostgresBooks
from e2e.chaos.endings import examine, stop_when_done
from e2e.chaos.evidence import gather
from e2e.chaos.faults import TIMEOUT_S, Fault, Faults, Harm, Infrastructure
from e2e.chaos.load import Call, Client, calls
from e2e.chaos.operators import Operators
from e2e.chaos.processes import kept_running
from e2e.chaos.records import Produced, RecordProducer, records
from e2e.chaos.world import Place, World, populated
from support.eventually import eventually
from support.proxy import Proxy
from support.real_kafka import LOOPBACK, RealKafka, free_port
from support.real_postgres import RealPostgres

SESSION_S = 6.0
"""A worker that was killed is missed for so long."""

LONGEST_GAP_S = 2.0
CALLS_PER_S = 150.0
"""How many calls begin per second at most."""

UNDER_WAY = 400
"""How many calls wait for their end at once, at most."""

CAUGHT_UP_S = 600.0
"""So long the calls before a fault may take at most, until no more of them than that wait."""

OVERLAPPING = 0.5
"""How many of the faults that last do so while the next one is done."""

ACTS_PER_FAULT = 4
"""How much operators do between two faults."""

DONE_S = 180.0

DURABLE = ("fsync=off", "full_page_writes=off")
"""A server that is stopped at once must keep what it has acknowledged; nobody pulls the plug of its host."""


@asynccontextmanager
async def infrastructure(*, ends_with: int) -> AsyncIterator[Infrastructure]:
    """PostgreSQL, Kafka and proxies in front of both."""
    postgres = await asyncio.to_thread(RealPostgres.started, ends_with=ends_with, options=DURABLE)
    try:
        to_kafka = Proxy(free_port(), 0)
        kafka = RealKafka(advertised_port=to_kafka.port)
        await asyncio.to_thread(kafka.start)
        to_kafka.server_port = kafka.second_port
        try:
            async with to_kafka, Proxy(0, postgres.port) as to_postgres:
                yield Infrastructure(
                    postgres=postgres, kafka=kafka, to_postgres=to_postgres, to_kafka=to_kafka
                )
        finally:
            await asyncio.to_thread(kafka.stop)
    finally:
        await asyncio.to_thread(postgres.remove)


async def survive_faults(folder: Path, things: Infrastructure, *, seed: int, count: int, faults: int) -> str:
    """Do harm at random moments under load; fails if a promise was broken. Returns the verdict."""
    chance = Random(seed)
    planned = calls(count, chance, several=True, with_function=True)
    produced = records(count // 2, seed)
    with things.postgres.database(migrated=False) as url:
        here = _world(folder, things, url)
        await create_topics(KafkaConnection(bootstrap=here.bootstrap), here.topics)
        async with populated(here):
            for victim in here.victims:
                await victim.start()
            for number in range(len(here.instances)):
                await here.started(number)
            async with AsyncExitStack() as stack:
                producer = await stack.enter_async_context(RecordProducer(here.bootstrap, here.events))
                await stack.enter_async_context(kept_running(*here.victims))
                harm = Faults(here, things, chance).planned(faults)
                operators = Operators(here, planned, Random(f"{seed} operators"))
                async with asyncio.timeout(DONE_S + faults * 30 + count / 20):
                    done = await _harm(
                        here, planned, harm, chance, producing=(producer, produced), operators=operators
                    )
                await here.all_started()
            await stop_when_done(here)
            evidence = await gather(here, planned, produced, operators.acts, done)
    return examine(evidence, told=f"seed {seed}: {'; '.join(map(str, done))}")


def _world(folder: Path, things: Infrastructure, url: str) -> World:
    """The last instance is behind the proxies."""
    direct = Place(store=url, kafka=things.kafka.bootstrap)
    behind = Place(
        store=url.replace(f":{things.postgres.port}/", f":{things.to_postgres.port}/"),
        kafka=f"{LOOPBACK}:{things.to_kafka.port}",
    )
    settings = {"AWAKEABLES_INSTANCE_TIMEOUT": f"PT{TIMEOUT_S:g}S", "CHAOS_TICKS": "1"}
    return World(
        folder,
        things.kafka.bootstrap,
        PostgresBooks(url),
        [direct, behind],
        session_s=SESSION_S,
        settings=settings,
        with_function=True,
    )


async def _harm(
    here: World,
    planned: list[Call],
    harm: list[Fault],
    chance: Random,
    *,
    producing: tuple[RecordProducer, list[Produced]],
    operators: Operators,
) -> list[Harm]:
    """Between two faults a share of the calls begins, records are produced, and operators act.

    Returns what was done, and to how many calls under way.

    No share begins before most of those before it have ended, so that faults keep pace with calls.
    While one fault lasts, the next one may begin, if the seed says so and it is at something else.
    """
    client, room = Client(here.clients), asyncio.Semaphore(UNDER_WAY)
    producer, produced = producing
    share, records_share = -(-len(planned) // len(harm)), -(-len(produced) // len(harm))
    tasks: list[asyncio.Task[None]] = []
    now_ms = SystemClock().now_ms
    done: list[Harm] = []
    turns: dict[object, asyncio.Lock] = {fault.at: asyncio.Lock() for fault in harm}

    async def later(call: Call, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with room:
            await client.insist(call)

    async def produce(record: Produced, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await producer.insist(record)

    def under_way() -> int:
        return sum(not task.done() for task in tasks)

    async def do(fault: Fault) -> None:
        calls_then = under_way()
        async with turns[fault.at]:
            began_ms = now_ms()
            await fault.do()
        done.append(Harm(name=fault.name, under_way=calls_then, began_ms=began_ms, ended_ms=now_ms()))
        print(done[-1], flush=True)

    async with asyncio.TaskGroup() as clients:
        lasting: asyncio.Task[None] | None = None
        for number, fault in enumerate(harm):
            some = planned[number * share : (number + 1) * share]
            gap_s = max(chance.uniform(0.1, LONGEST_GAP_S), len(some) / CALLS_PER_S)
            await eventually(lambda: under_way() <= UNDER_WAY, timeout=CAUGHT_UP_S)
            tasks = [task for task in tasks if not task.done()]
            tasks += [clients.create_task(later(call, chance.uniform(0, gap_s))) for call in some]
            for place, record in enumerate(produced[number * records_share : (number + 1) * records_share]):
                clients.create_task(produce(record, gap_s * place / records_share))
            for place in range(ACTS_PER_FAULT):
                clients.create_task(operators.act(place, gap_s * place / ACTS_PER_FAULT))
            await asyncio.sleep(gap_s * chance.uniform(0.2, 1))
            doing = clients.create_task(do(fault))
            overlaps = chance.random() < OVERLAPPING and fault.lasts
            if lasting is not None:
                await lasting
            lasting = doing if overlaps else None
            if not overlaps:
                await doing
    return done
