"""Two instances as processes, on a real PostgreSQL and a real Kafka: frozen, given up, cut off, deaf."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics
from e2e.chaos.audit import gather
from e2e.chaos.books import PostgresBooks
from e2e.chaos.endings import examine, stop_when_done
from e2e.chaos.faults import TIMEOUT_S
from e2e.chaos.load import Call, Client, calls
from e2e.chaos.world import PARTITIONS, Place, World, populated
from support.eventually import eventually
from support.proxy import Proxy
from support.real_postgres import RealPostgres, reason_real_postgres_is_missing
from support.service import produce, resolved
from support.shared_postgres import shared_postgres

ONE, OTHER = 0, 1
CALLS = 90
LOAD_S = 12.0
"""In which they begin, while the instances are replaced."""

NO_LIVING_OWNER = """
SELECT id FROM invocations WHERE owner IS NOT NULL
AND owner NOT IN (SELECT id FROM instances WHERE state <> 'dead')
"""
LONG_TRANSACTIONS = """
SELECT pid, query FROM pg_stat_activity
WHERE datname = current_database() AND xact_start < clock_timestamp() - interval '1 second'
"""

pytestmark = [pytest.mark.real_postgres, pytest.mark.timeout(400)]


@pytest.fixture
def postgres() -> RealPostgres:
    if reason := reason_real_postgres_is_missing():
        if os.environ.get("REQUIRE_REAL_POSTGRES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return shared_postgres()


@asynccontextmanager
async def two_instances(
    folder: Path, postgres: RealPostgres, bootstrap: str, *, linger: str = "PT60S", **settings: str
) -> AsyncIterator[tuple[World, Proxy]]:
    """Two that serve; the other one reaches PostgreSQL by the proxy."""
    timeouts = {"AWAKEABLES_INSTANCE_TIMEOUT": f"PT{TIMEOUT_S:g}S", "AWAKEABLES_LINGER": linger}
    with postgres.database(migrated=False) as url:
        async with Proxy(0, postgres.port) as proxy:
            behind = url.replace(f":{postgres.port}/", f":{proxy.port}/")
            places = [Place(store=store, kafka=bootstrap) for store in (url, behind)]
            here = World(
                folder, bootstrap, PostgresBooks(url), places, session_s=6, settings=timeouts | settings
            )
            await create_topics(KafkaConnection(bootstrap=bootstrap), here.topics)
            async with populated(here):
                for number, instance in enumerate(here.instances):
                    await instance.start()
                    await here.started(number)
                yield here, proxy


async def owner_of(here: World, invocation_id: str) -> str | None:
    [(owner,)] = await here.books.rows(f"SELECT owner FROM invocations WHERE id = '{invocation_id}'")
    return None if owner is None else str(owner)


async def now_is_past(here: World, moment: str) -> None:
    """Wait until it is later than what this query finds, by the store's clock."""

    async def it_is() -> bool:
        now = "extract(epoch FROM clock_timestamp()) * 1000"
        return await here.books.rows(f"SELECT ({moment}) < {now}") == [(True,)]

    await eventually(it_is, timeout=30)


async def test_pg05_who_is_frozen_between_load_and_write_holds_no_lock_and_writes_nothing_old(
    tmp_path: Path, postgres: RealPostgres, bootstrap: str
) -> None:
    async with two_instances(tmp_path, postgres, bootstrap) as (here, _):
        invocation_id = await here.send("fates/waits", at=ONE)
        key = await here.awakeable_of(invocation_id, at=OTHER)
        owner = await owner_of(here, invocation_id)
        freezing = asyncio.create_task(here.instances[ONE].freeze_before_a_write(timeout=20))
        early = asyncio.create_task(here.clients[ONE].post(f"/awakeables/{key}/resolve", json="early"))
        assert await freezing
        await now_is_past(here, f"SELECT beat_ms + 2000 FROM instances WHERE id = '{owner}'")
        assert await here.books.rows(LONG_TRANSACTIONS) == []

        async def is_taken_over() -> bool:
            return await owner_of(here, invocation_id) != owner

        await eventually(is_taken_over, timeout=30)
        await here.resolve(key, "late", at=OTHER)
        assert await here.value_of(invocation_id, at=OTHER) == "late"

        here.instances[ONE].thaw()
        assert (await early).status_code in (409, 503)
        again = await here.clients[ONE].post(f"/awakeables/{key}/resolve", json="early")
        assert again.json()["verdict"] == "conflict"
        assert await here.value_of(invocation_id, at=ONE) == "late"


async def test_pg06_who_is_declared_dead_while_alive_goes_on_as_a_new_instance(
    tmp_path: Path, postgres: RealPostgres, bootstrap: str
) -> None:
    async with two_instances(tmp_path, postgres, bootstrap) as (here, _):
        invocation_id = await here.send("fates/waits", at=ONE)
        key = await here.awakeable_of(invocation_id, at=OTHER)
        owner = await owner_of(here, invocation_id)
        declared = f"UPDATE instances SET state = 'dead' WHERE id = '{owner}' RETURNING id"
        assert await here.books.rows(declared) == [(owner,)]

        async def two_live() -> bool:
            living = await here.books.rows("SELECT id FROM instances WHERE state = 'alive'")
            return len(living) == 2 and await here.books.rows(NO_LIVING_OWNER) == []

        await eventually(two_live, timeout=30)
        assert await owner_of(here, invocation_id) != owner
        later = await here.send("fates/waits", at=ONE)
        for waiting, awakeable_id in ((invocation_id, key), (later, await here.awakeable_of(later, at=ONE))):
            await here.resolve(awakeable_id, "go", at=OTHER)
            assert await here.value_of(waiting, at=ONE) == "go"
        assert [instance.starts for instance in here.instances] == [1, 1]


async def test_pg07_what_an_instance_owned_whose_row_was_deleted_is_taken_over(
    tmp_path: Path, postgres: RealPostgres, bootstrap: str
) -> None:
    async with two_instances(tmp_path, postgres, bootstrap) as (here, _):
        invocation_id = await here.send("fates/waits", at=ONE)
        key = await here.awakeable_of(invocation_id, at=OTHER)
        owner = await owner_of(here, invocation_id)
        await here.instances[ONE].kill()
        assert await here.books.rows(f"DELETE FROM instances WHERE id = '{owner}' RETURNING id") == [(owner,)]
        await here.resolve(key, "go", at=OTHER)
        assert await here.value_of(invocation_id, at=OTHER) == "go"


async def test_pg11_stalled_connections_to_the_store_are_given_up_and_work_goes_on(
    tmp_path: Path, postgres: RealPostgres, bootstrap: str
) -> None:
    async with two_instances(tmp_path, postgres, bootstrap) as (here, proxy):
        invocation_id = await here.send("fates/waits", at=OTHER)
        key = await here.awakeable_of(invocation_id, at=ONE)
        await proxy.become("stalled")
        told = await here.clients[OTHER].post("/fates/waits/send")
        assert told.status_code == 503
        await here.resolve(key, "go", at=ONE)
        assert await here.value_of(invocation_id, at=ONE) == "go"
        await proxy.become("passes")
        await here.all_started()
        again = await here.send("fates/waits", at=OTHER)
        await here.resolve(await here.awakeable_of(again, at=ONE), "go", at=ONE)
        assert await here.value_of(again, at=OTHER) == "go"
        assert [instance.starts for instance in here.instances] == [1, 1]


async def test_pg12_without_any_notification_everything_ends_all_the_same(
    tmp_path: Path, postgres: RealPostgres, bootstrap: str
) -> None:
    async with two_instances(tmp_path, postgres, bootstrap, linger="PT0.5S", CHAOS_NO_HINTS="1") as (here, _):
        calls = {at: asyncio.create_task(here.clients[at].post("/fates/waits")) for at in (ONE, OTHER)}
        await here.waiting(2)
        for key, invocation_id in await here.books.rows("SELECT id, invocation_id FROM awakeables"):
            row = await here.invocation(invocation_id)
            assert row["status"] in ("running", "suspended", "pending")
            for at in (ONE, OTHER):
                await here.clients[at].post(f"/awakeables/{key}/resolve", json="go")
        assert [(await call).json() for call in calls.values()] == ["go", "go"]


async def test_pg13_a_caller_is_answered_whichever_instance_finishes_and_whichever_dies(
    tmp_path: Path, postgres: RealPostgres, bootstrap: str
) -> None:
    async with two_instances(tmp_path, postgres, bootstrap, linger="PT0.1S") as (here, _):
        call = asyncio.create_task(here.clients[ONE].post("/fates/waits"))
        await here.waiting(1)
        [(key, invocation_id)] = await here.books.rows("SELECT id, invocation_id FROM awakeables")

        async def is_suspended() -> bool:
            return (await here.invocation(invocation_id, at=OTHER)).get("status") == "suspended"

        await eventually(is_suspended)
        await here.resolve(key, "finished elsewhere", at=OTHER)
        assert (await call).json() == "finished elsewhere"

        second = await here.send("fates/waits", at=ONE)
        key = await here.awakeable_of(second, at=OTHER)
        attached = asyncio.create_task(here.clients[OTHER].get(f"/invocations/{second}/attach"))
        await here.instances[ONE].kill()
        await here.resolve(key, "its instance died", at=OTHER)
        assert (await attached).json() == "its instance died"


async def test_pg14_no_time_out_while_an_answer_lies_unread_in_the_partition_of_a_frozen_instance(
    tmp_path: Path, postgres: RealPostgres, bootstrap: str
) -> None:
    async with two_instances(tmp_path, postgres, bootstrap) as (here, _):

        async def are_shared() -> bool:
            found = "SELECT owner FROM offsets WHERE fresh_ms IS NOT NULL GROUP BY owner"
            return len(await here.books.rows(found)) == len(here.instances)

        await eventually(are_shared, timeout=30)
        here.instances[ONE].freeze()
        begun = [await here.send("fates/has_a_deadline", 4.0, at=OTHER) for _ in range(PARTITIONS)]
        for partition, invocation_id in enumerate(begun):
            key = await here.awakeable_of(invocation_id, at=OTHER)
            await produce(bootstrap, here.completions, [resolved(key, "in time")], partition=partition)
        await now_is_past(here, "SELECT max(deadline_ms) + 1000 FROM awakeables")
        rows = [await here.invocation(invocation_id, at=OTHER) for invocation_id in begun]
        assert {row["status"] == "completed" for row in rows} == {True, False}
        here.instances[ONE].thaw()
        for invocation_id in begun:
            assert await here.value_of(invocation_id, at=OTHER) == "in time"


async def test_pg19_a_rolling_upgrade_under_load_loses_nothing(
    tmp_path: Path, postgres: RealPostgres, bootstrap: str
) -> None:
    """One instance after the other becomes a newer build; the first has added to the schema."""
    chance = Random(19)
    planned = calls(CALLS, chance, several=True)
    async with two_instances(tmp_path, postgres, bootstrap, linger="PT0.3S", CHAOS_TICKS="1") as (here, _):
        for worker in here.workers.values():
            await worker.start()
        client = Client(here.clients)

        async def later(call: Call, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            await client.insist(call)

        async with asyncio.TaskGroup() as clients:
            for call in planned:
                clients.create_task(later(call, chance.uniform(0, LOAD_S)))
            for number, instance in enumerate(here.instances):
                await asyncio.sleep(LOAD_S / 4)
                assert await instance.stop() == 0, instance.last_words()
                if number == 0:
                    await here.books.rows("ALTER TABLE invocations ADD COLUMN of_the_next_release text")
                    await here.books.rows("UPDATE meta SET version = version + 1")
                instance.configure(AWAKEABLES_BUILD="next")
                await instance.start()
                await here.started(number)
        rows = await here.books.rows("SELECT build FROM instances WHERE state = 'alive'")
        assert rows == [("next",), ("next",)]
        await stop_when_done(here)
        evidence = await gather(here, planned)
    examine(evidence, told="a rolling upgrade")
