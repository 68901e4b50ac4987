"""Hints by NOTIFY, between stores that share a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from awakeables.core.instances import Hint
from awakeables.store.postgres import hints as hints_module
from awakeables.store.postgres.store import PostgresStore
from contract.driver import RETENTION_MS
from support.real_postgres import EmptyDatabase

pytestmark = pytest.mark.real_postgres

HINT = Hint(kind="woken", invocation_id="inv_1", wake=3, awakeable_id="prom_1")


class Heard:
    """What an instance has heard; an empty call is counted as a look."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []
        self.looks = 0
        self.changed = asyncio.Event()

    def __call__(self, hints: Sequence[Hint]) -> None:
        self.hints += hints
        self.looks += not hints
        self.changed.set()

    async def until(self, hints: int = 0, looks: int = 0) -> None:
        async with asyncio.timeout(20):
            while len(self.hints) < hints or self.looks < looks:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def a_store(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, retention_ms=RETENTION_MS)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_a_hint_reaches_the_instance_that_it_is_for(empty_database: EmptyDatabase) -> None:
    url = await empty_database()
    async with a_store(url) as one, a_store(url) as two:
        heard, other = Heard(), Heard()
        two.hints.listen("own_2", heard)
        one.hints.listen("own_1", other)
        await heard.until(looks=1)
        await other.until(looks=1)
        one.hints.send("own_2", HINT)
        await heard.until(hints=1)
        two.hints.send("own_1", Hint(kind="ended", invocation_id="inv_2"))
        await other.until(hints=1)
        assert heard.hints == [HINT]
        assert [hint.kind for hint in other.hints] == ["ended"]


async def test_many_hints_are_sent_in_few_notifications(empty_database: EmptyDatabase) -> None:
    url = await empty_database()
    async with a_store(url) as store:
        heard = Heard()
        store.hints.listen("own_1", heard)
        await heard.until(looks=1)
        many = [Hint(kind="woken", invocation_id=f"inv_1{n:044}", wake=n) for n in range(500)]
        for hint in many:
            store.hints.send("own_1", hint)
        await heard.until(hints=500)
        assert heard.hints == many


async def test_under_a_new_id_an_instance_listens_for_that(empty_database: EmptyDatabase) -> None:
    url = await empty_database()
    async with a_store(url) as store:
        first, second = Heard(), Heard()
        store.hints.listen("own_1", first)
        await first.until(looks=1)
        store.hints.listen("own_2", second)
        await second.until(looks=1)
        store.hints.send("own_2", HINT)
        await second.until(hints=1)


async def test_a_listener_that_was_cut_off_connects_anew_and_looks(empty_database: EmptyDatabase) -> None:
    url = await empty_database()
    async with a_store(url) as store:
        heard = Heard()
        store.hints.listen("own_1", heard)
        await heard.until(looks=1)
        server = await asyncpg.connect(url)
        try:
            await server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
            )
        finally:
            await server.close()
        await heard.until(looks=2)
        store.hints.send("own_1", HINT)
        await heard.until(hints=1)


async def test_pg11_a_listener_without_an_echo_connects_anew(
    empty_database: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints_module, "PROBE_S", 0.1)
    monkeypatch.setattr(hints_module, "ECHO_S", 0.2)
    url = await empty_database()
    async with a_store(url) as store:
        heard = Heard()
        store.hints.listen("own_1", heard)
        await heard.until(looks=1)
        await asyncio.sleep(0.5)
        assert heard.looks == 1  # it hears its own echo
        send = store.hints._notify

        async def lost(_channels: Sequence[str], _payloads: Sequence[str]) -> None:
            monkeypatch.setattr(store.hints, "_notify", send)

        monkeypatch.setattr(store.hints, "_notify", lost)
        await heard.until(looks=2)


async def test_without_a_server_hints_are_lost_and_nobody_fails(empty_database: EmptyDatabase) -> None:
    url = await empty_database()
    async with a_store(url) as store:
        await store.hints.close()
        store.hints.send("own_1", HINT)
        await asyncio.sleep(0.05)
