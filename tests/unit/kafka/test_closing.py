"""Closing what aiokafka has opened."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import pytest

import awakeables.kafka
from awakeables.kafka import topics
from awakeables.kafka.closing import close_client
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import asking
from support.eventually import eventually


class Client:
    """Closes as aiokafka 0.14 does: it waits for a task that it has cancelled, and suppresses the outcome."""

    def __init__(self, **_options: Any) -> None:
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()
        self.closed = False
        clients.append(self)

    async def bootstrap(self) -> None:
        pass

    async def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self.may_close.wait()
        self.closed = True


clients: list[Client] = []


async def test_a_task_that_is_cancelled_while_it_closes_a_client_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topics, "AIOKafkaClient", Client)

    async def ask_and_go_on() -> None:
        async with asking(KafkaConnection(bootstrap="127.0.0.1:1")):
            pass
        await asyncio.Event().wait()

    task = asyncio.create_task(ask_and_go_on())
    client = await eventually(lambda: clients and clients[-1])
    assert isinstance(client, Client)
    await client.closing.wait()
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    client.may_close.set()
    await eventually(lambda: client.closed)


async def test_a_client_that_fails_to_close_is_let_go() -> None:
    class Failing(Client):
        async def close(self) -> None:
            raise OSError("it is gone")

    await close_client(Failing())


def test_clients_are_closed_by_this_module_alone() -> None:
    for path in Path(awakeables.kafka.__file__).parent.glob("*.py"):
        direct = re.findall(
            r"await (?:self\.)?_?(?:client|admin|consumer|producer)\.(?:close|stop)\(", path.read_text()
        )
        assert not direct or path.name == "closing.py", path
