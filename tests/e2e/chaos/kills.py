"""The run: load, kills at random moments, everything awaited, then the audit."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

from e2e.chaos.app import SIDES
from e2e.chaos.audit import Evidence, gather, violations
from e2e.chaos.forgeries import forgeries
from e2e.chaos.kafka import ends_of
from e2e.chaos.load import Call, calls, insist
from e2e.chaos.world import PARTITIONS, CreateTopics, World, world
from support.eventually import eventually

CALLS_PER_KILL = 20
LONGEST_GAP_S = 2.0
VICTIMS = ("service", "service", "service", *SIDES)
DONE_S = 120.0


async def survive_kills(
    folder: Path, bootstrap: str, create_topics: CreateTopics, *, seed: int, kills: int, session_s: float
) -> None:
    """Kill at random moments under load; fails if anything was lost, applied twice or told wrongly."""
    chance = Random(seed)
    planned = calls(kills * CALLS_PER_KILL, chance)
    async with world(folder, bootstrap, create_topics, session_s=session_s) as here:
        await here.service.start()
        for worker in here.workers.values():
            await worker.start()
        await here.started()
        async with asyncio.timeout(DONE_S + kills * 5), asyncio.TaskGroup() as clients:
            under_way = await _kill(here, planned, chance, kills, clients)
        await _stop_when_done(here)
        evidence = await gather(here, planned)
    found = violations(evidence)
    print(f"\nseed {seed}: {_told(evidence, under_way)}")
    counts = Counter(violation.kind for violation in found)
    print(", ".join(f"{counts[kind]} {kind}" for kind in ("lost", "applied twice", "told wrongly")))
    assert found == [], f"seed {seed}:\n" + "\n".join(map(str, found))
    unseen = [name for name, forged in forgeries(evidence) if not violations(forged)]
    assert unseen == [], "the audit is blind"


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


async def _later(here: World, call: Call, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    await insist(here.http, call)


async def _stop_when_done(here: World) -> None:
    """All calls are answered; let late and repeated answers come in, then stop in order."""
    for worker in here.workers.values():
        assert await worker.stop(60) == 0, worker.last_words()
    ends = await ends_of(here.bootstrap, here.completions, PARTITIONS)

    def everything_is_read() -> bool:
        positions = dict(here.rows("SELECT partition, next FROM offsets WHERE topic = ?", here.completions))
        return all(positions.get(partition, 0) == end for partition, end in ends.items())

    await eventually(everything_is_read, timeout=60)
    await eventually(lambda: here.rows("SELECT count(*) FROM outbox") == [(0,)], timeout=60)
    assert await here.service.stop(60) == 0, here.service.last_words()


def _told(evidence: Evidence, under_way: list[int]) -> str:
    kinds: Counter[str] = Counter()
    for row in evidence.awakeables.values():
        kinds.update(row.verdicts.counts)
    states = Counter(row.state for row in evidence.awakeables.values())
    effects = [line["invocation"] for line in evidence.lines("effect")]
    tasks = len(evidence.tasks) - len({record.value for record in evidence.tasks})
    return (
        f"{len(under_way)} kills with {min(under_way)} to {max(under_way)} calls under way, "
        f"{len(evidence.calls)} calls in {sum(call.tries for call in evidence.calls)} tries, "
        f"{dict(states)}, verdicts {dict(kinds)}, {tasks} tasks sent again, "
        f"{len(effects)} side effects of {len(set(effects))}"
    )
