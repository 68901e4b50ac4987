"""A batch that is damaged on the broker's disk, and what an operator does about it (K2)."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import struct
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from aiokafka.record.util import calc_crc32c

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics
from support.console import console
from support.eventually import eventually
from support.raw_kafka import ATTRIBUTES_AT, CRC_AT
from support.real_kafka import free_port
from support.service import produce, read_records, resolved

if TYPE_CHECKING:
    from support.real_kafka import RealKafka

AWAKEABLES = str(Path(sys.executable).parent / "awakeables")
UNKNOWN_CODEC = 7

CODE = """
from typing import Any
from awakeables import App, Context, Service

service = Service("orders")

@service.handler()
async def wait(ctx: Context) -> Any:
    return await ctx.awakeable()

app = App("{name}", services=[service])
"""


def wrong_checksum(batch: bytes) -> bytes:
    """Another checksum, and the attributes behind it as they are."""
    (checksum,) = struct.unpack_from(">I", batch, CRC_AT)
    return struct.pack(">I", checksum ^ 1) + batch[ATTRIBUTES_AT : ATTRIBUTES_AT + 2]


def unknown_codec(batch: bytes) -> bytes:
    """Attributes that tell of a codec that nobody knows, and the checksum that fits them."""
    changed = struct.pack(">h", UNKNOWN_CODEC) + batch[ATTRIBUTES_AT + 2 :]
    return struct.pack(">I", calc_crc32c(changed)) + changed[:2]


@pytest.mark.parametrize("damage", [wrong_checksum, unknown_codec])
async def test_fault_9_a_damaged_batch_is_skipped_by_command_and_reading_goes_on_at_once(
    real_kafka: RealKafka, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    name = damage.__name__.replace("_", "-")
    topic, bootstrap = f"{name}.completions", real_kafka.bootstrap
    (tmp_path / "shop.py").write_text(CODE.replace("{name}", name))
    await create_topics(KafkaConnection(bootstrap=bootstrap), {topic: 1, f"{topic}.dlq": 1})
    async with _serving(bootstrap, tmp_path) as http:
        lost, behind = await _pending(http), await _pending(http)
    await produce(bootstrap, topic, [b"poison"])
    begins = len(await asyncio.to_thread(real_kafka.read_log, topic))
    await produce(bootstrap, topic, [b"{}", resolved(lost, 1)])
    batch = (await asyncio.to_thread(real_kafka.read_log, topic))[begins:]
    await asyncio.to_thread(real_kafka.write_log, topic, begins + CRC_AT, damage(batch))
    await produce(bootstrap, topic, [resolved(behind, 7)])

    async with _serving(bootstrap, tmp_path) as http:
        await eventually(lambda: _problem(http), timeout=30)
        [row] = (await http.get("/offsets")).json()["items"]
        assert (row["next"], row["end"]) == (1, 4)
        told = await _run("offsets", "skip", "0", "--yes", "--url", str(http.base_url))
        assert told == "partition 0 continues at 3"
        again = await _run("offsets", "skip", "0", "--yes", "--url", str(http.base_url))
        assert "is not stuck" in again
        await eventually(lambda: _is(http, behind, "resolved"), timeout=10)
        assert await _is(http, lost, "pending")
        letters = await _letters(http)
        assert [(x["code"], x["offset"]) for x in letters] == [("skipped", 1), ("unreadable", 0)]
        assert await _problem(http) is None
        refused = await _run("dead-letters", "resend", letters[0]["id"], "--url", str(http.base_url))
        assert "were not kept" in refused
    assert len(await read_records(bootstrap, f"{topic}.dlq", 2)) == 2


async def test_a_dead_letter_that_is_sent_again_comes_back_through_its_topic_and_settles(
    bootstrap: str, tmp_path: Path
) -> None:
    topic = "again.completions"
    (tmp_path / "shop.py").write_text(CODE.replace("{name}", "again"))
    await create_topics(KafkaConnection(bootstrap=bootstrap), {topic: 1, f"{topic}.dlq": 1})
    async with _serving(bootstrap, tmp_path) as http:
        awakeable_id = await _pending(http)
    # As after a restore: the answer is read when its awakeable is not there, which comes later.
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db, db:
        [row] = db.execute("DELETE FROM awakeables RETURNING *").fetchall()
    await produce(bootstrap, topic, [resolved(awakeable_id, 7)])
    async with _serving(bootstrap, tmp_path) as http:
        [letter] = await eventually(lambda: _letters(http), timeout=30)
        assert letter["code"] == "unknown"
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db, db:
        db.execute(f"INSERT INTO awakeables VALUES ({','.join('?' * len(row))})", row)
    async with _serving(bootstrap, tmp_path) as http:
        told = await _run("dead-letters", "resend", letter["id"], "--url", str(http.base_url))
        assert told == f"{letter['id']}: queued for {topic}"
        await eventually(lambda: _is(http, awakeable_id, "resolved"), timeout=20)
        assert len(await _letters(http)) == 1
    first, second = await read_records(bootstrap, topic, 2)
    assert (first.key, first.value) == (second.key, second.value)
    assert [name for name, _ in second.headers] == [*dict(first.headers)]


# ── helpers ─────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _serving(bootstrap: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """`awakeables serve` on the file in this folder, until the block is left; SIGTERM ends it."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(AWAKEABLES, "serve", "shop:app", "--kafka", bootstrap, "--port", str(port)),
        cwd=folder,
        env=os.environ | {"AWAKEABLES_STORE": "shop.db", "PYTHONPATH": str(folder)},
        stderr=DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            await eventually(lambda: _is_up(http), timeout=60)
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(40):
            assert await process.wait() == 0


async def _is_up(http: httpx.AsyncClient) -> bool:
    with suppress(httpx.TransportError):
        return (await http.get("/health/live")).status_code == 200
    return False


async def _run(*words: str) -> str:
    """What a command says; a refusal, too."""
    told = await asyncio.to_thread(console, *words, COLUMNS="200")
    return (told.stdout + told.stderr).strip()


async def _pending(http: httpx.AsyncClient) -> str:
    """A new awakeable that waits."""
    known = await _ids(http)
    assert (await http.post("/orders/wait/send")).status_code == 202
    [new] = await eventually(lambda: _ids(http, but=known))
    return new


async def _ids(http: httpx.AsyncClient, but: Collection[str] = ()) -> list[str]:
    items = (await http.get("/awakeables")).json()["items"]
    return [item["id"] for item in items if item["id"] not in but]


async def _is(http: httpx.AsyncClient, awakeable_id: str, state: str) -> bool:
    return bool((await http.get(f"/awakeables/{awakeable_id}")).json()["state"] == state)


async def _problem(http: httpx.AsyncClient) -> str | None:
    items: list[dict[str, Any]] = (await http.get("/offsets")).json()["items"]
    return items[0]["problem"] if items else None


async def _letters(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await http.get("/dead-letters")).json()["items"]
    return items
