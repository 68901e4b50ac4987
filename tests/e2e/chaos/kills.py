"""One instance: load, kills at random moments, everything awaited, then the audit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from e2e.chaos.endings import examine, stop_when_done
from e2e.chaos.evidence import gather
from e2e.chaos.load import Call, Client, calls
from e2e.chaos.questions import SIDES
from e2e.chaos.records import Produced, RecordProducer, records
from e2e.chaos.world import CreateTopics, World, world

CALLS_PER_KILL = 20
RECORDS_PER_KILL = 10
RECORD_GAP_S = 0.1
LONGEST_GAP_S = 2.0
VICTIMS = ("service", "service", "service", *SIDES)
DONE_S = 120.0


async def survive_kills(
    folder: Path, bootstrap: str, create_topics: CreateTopics, *, seed: int, kills: int, session_s: float
) -> None:
    """Kill at random moments under load; fails if anything was lost, settled twice or told wrongly."""
    chance = Random(seed)
    planned, produced = calls(kills * CALLS_PER_KILL, chance), records(kills * RECORDS_PER_KILL, seed)
    async with world(folder, bootstrap, create_topics, session_s=session_s, CHAOS_TICKS="1") as here:
        await here.service.start()
        for worker in here.workers.values():
            await worker.start()
        await here.started()
        async with asyncio.timeout(DONE_S + kills * 5), asyncio.TaskGroup() as clients:
            clients.create_task(_produce(here, produced))
            under_way = await _kill(here, planned, chance, kills, clients)
        await stop_when_done(here)
        evidence = await gather(here, planned, produced)
    examine(evidence, told=f"seed {seed}: {kills} kills with {_range(under_way)} calls under way")


async def _kill(
    here: World, planned: list[Call], chance: Random, kills: int, clients: asyncio.TaskGroup
) -> list[int]:
    """Between two kills a share of the calls begins; how many calls were under way at each kill."""
    tasks: list[asyncio.Task[None]] = []
    under_way: list[int] = []
    for number in range(kills):
        victim = chance.choice(VICTIMS)
        gap_s = chance.uniform(0.1, LONGEST_GAP_S)
        early = chance.random() < 0.2
        for call in planned[number * CALLS_PER_KILL : (number + 1) * CALLS_PER_KILL]:
            delay_s = chance.uniform(0, gap_s)
            tasks.append(clients.create_task(_later(here, call, delay_s)))
        if not early:  # else it may be killed while it still starts
            await (here.started() if victim == "service" else here.worker_works(victim))
        await asyncio.sleep(gap_s)
        under_way.append(sum(not task.done() for task in tasks))
        target = here.service if victim == "service" else here.workers[victim]
        await target.kill()
        await target.start()
    return under_way


async def _produce(here: World, produced: list[Produced]) -> None:
    """One record after the other, over about as long as it is killed."""
    async with RecordProducer(here.bootstrap, here.events) as producer:
        for record in produced:
            await producer.insist(record)
            await asyncio.sleep(RECORD_GAP_S)


async def _later(here: World, call: Call, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    await Client(here.clients).insist(call)


def _range(numbers: list[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}"
