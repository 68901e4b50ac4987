"""What becomes of a process: told to stop, killed, or killed by its own handler."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from e2e.chaos.world import World
from support.eventually import eventually

PARKED_AFTER = 5


async def drains(here: World) -> None:
    """SIGTERM: who waits is told to ask later, what runs is finished, the exit status is 0."""
    await here.service.start()
    await here.started()
    waiting = asyncio.create_task(here.http.post("/fates/waits"))
    working = await here.send("fates/works", 1.0)
    await eventually(lambda: here.ledger.lines("works"))
    await here.waiting(1)

    assert await here.service.stop(15) == 0, here.service.last_words()

    told = await waiting
    assert told.status_code == 202
    assert await here.books.rows("SELECT count(*) FROM invocations WHERE owner IS NOT NULL") == [(0,)]
    await here.service.start()
    await here.started()
    assert await here.value_of(working) == "done"
    assert len(here.ledger.lines("works")) == 1
    await goes_on(here, told.headers["invocation-id"])


async def stops_in_time(here: World) -> None:
    """SIGTERM while an action runs for much longer than the drain may take."""
    await here.service.start()
    await here.started()
    working = await here.send("fates/works", 20.0)
    await eventually(lambda: here.ledger.lines("works"))

    assert await here.service.stop(10) == 0, here.service.last_words()

    await here.service.start()
    await here.started()
    await eventually(lambda: len(here.ledger.lines("works")) == 2)
    assert (await here.invocation(working))["status"] == "running"


async def needs_no_repair(here: World) -> None:
    """SIGKILL, and another start on the same file."""
    await here.service.start()
    await here.started()
    waiting = [await here.send("fates/waits") for _ in range(2)]
    await here.waiting(2)
    for invocation_id in waiting:
        await here.service.kill()
        await here.service.start()
        await here.started()
        await goes_on(here, invocation_id)
    await here.books.check()
    assert await here.service.stop(15) == 0, here.service.last_words()


async def parks_who_kills_it(here: World, *, killers: int) -> None:
    """Hard case 11: several are parked after five starts at most, and others go on."""
    await here.service.start()
    await here.started()
    waiting = [await here.send("fates/waits") for _ in range(5)]
    awakeables = [await here.awakeable_of(invocation_id) for invocation_id in waiting]
    async with supervised(here):
        parked = [await send_until_heard(here) for _ in range(killers)]
        for invocation_id in parked:
            row = await eventually(partial(_paused, here, invocation_id), timeout=60)
            assert row["failure"]["kind"] == "crashed its owner"
            shots = [line for line in here.ledger.lines("shot") if line["invocation"] == invocation_id]
            # One may be shot by another before it shoots.
            assert 0 < len(shots) <= PARKED_AFTER
        assert await here.books.rows("SELECT id FROM invocations WHERE status = 'paused' ORDER BY 1") == [
            (invocation_id,) for invocation_id in sorted(parked)
        ]
        await here.started()
        for invocation_id, awakeable_id in zip(waiting, awakeables, strict=True):
            await here.resolve(awakeable_id, "at last")
            assert await here.value_of(invocation_id) == "at last"
        assert await here.value_of(await here.send("fates/works", 0.0)) == "done"


async def send_until_heard(here: World) -> str:
    """Begin the handler that kills its process; what is answered tells nothing, the process is dead.

    With an idempotency key, because then the row is there before the handler runs: a call without
    one is run while its row is written, and dies with its process before it was ever accepted.
    """
    before = set(await here.books.rows("SELECT id FROM invocations"))
    key = {"idempotency-key": f"killer-{len(before)}"}
    while True:
        try:
            await here.http.post("/fates/kills_its_process/send", headers=key)
        except Exception:
            await asyncio.sleep(0.05)
        new = set(await here.books.rows("SELECT id FROM invocations")) - before
        if new:
            return str(new.pop()[0])


async def _paused(here: World, invocation_id: str) -> dict[str, Any]:
    row = await here.invocation(invocation_id)
    return row if row.get("status") == "paused" else {}


async def goes_on(here: World, invocation_id: str) -> None:
    await here.resolve(await here.awakeable_of(invocation_id), "go")
    assert await here.value_of(invocation_id) == "go"


@asynccontextmanager
async def supervised(here: World) -> AsyncIterator[None]:
    """Start the service again whenever it was killed, as systemd would."""

    async def watch() -> None:
        while True:
            status = await here.service.process.wait()
            assert status == -signal.SIGKILL, here.service.last_words()
            await here.service.start()

    async with asyncio.TaskGroup() as tasks:
        supervisor = tasks.create_task(watch())
        yield
        supervisor.cancel()
