"""The proxy that breaks connections for other tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.eventually import eventually
from support.proxy import Proxy
from support.real_kafka import LOOPBACK

SILENT_S = 0.1


class Echo:
    """A server that answers each line with the same line, and remembers them."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ends = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line)
        except OSError:
            pass
        self.ends += 1
        writer.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, line: bytes) -> None:
        self.writer.write(line)

    async def hears(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readline()

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(SILENT_S):
                await self.reader.readline()
        except TimeoutError:
            return True
        return False


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, LOOPBACK, 0)
    async with Proxy(0, server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


async def connected(proxy: Proxy) -> Client:
    return Client(*await asyncio.open_connection(LOOPBACK, proxy.port))


async def test_bytes_pass_both_ways_and_ends_too(proxy: Proxy, echo: Echo) -> None:
    client = await connected(proxy)
    client.say(b"one\n")
    assert await client.hears() == b"one\n"
    client.writer.write_eof()
    assert await client.hears() == b""
    await eventually(lambda: echo.ends == 1 and proxy.connections == 0)


async def test_a_connection_that_is_cut_is_reset_and_so_are_new_ones(proxy: Proxy) -> None:
    client = await connected(proxy)
    client.say(b"one\n")
    await client.hears()
    await proxy.become("cut")
    with pytest.raises(ConnectionResetError):
        await client.hears()
    late = await connected(proxy)
    with pytest.raises(ConnectionResetError):
        await late.hears()
    await proxy.become("passes")
    again = await connected(proxy)
    again.say(b"two\n")
    assert await again.hears() == b"two\n"


async def test_what_is_sent_over_a_stalled_connection_arrives_late(proxy: Proxy, echo: Echo) -> None:
    client = await connected(proxy)
    client.say(b"one\n")
    await client.hears()
    await proxy.become("stalled")
    client.say(b"two\n")
    assert await client.hears_nothing()
    assert echo.heard == [b"one\n"]
    await proxy.become("passes")
    assert await client.hears() == b"two\n"


async def test_the_server_is_not_told_of_an_end_while_connections_stall(proxy: Proxy, echo: Echo) -> None:
    client = await connected(proxy)
    client.say(b"one\n")
    await client.hears()
    await proxy.become("stalled")
    client.say(b"two\n")
    client.writer.close()
    new = await connected(proxy)
    assert await new.hears_nothing()
    assert echo.ends == 0
    await proxy.become("passes")
    await eventually(lambda: echo.ends == 1)
    assert echo.heard == [b"one\n", b"two\n"]


async def test_a_deaf_connection_passes_what_is_asked_and_no_answer(proxy: Proxy, echo: Echo) -> None:
    client = await connected(proxy)
    await proxy.become("deaf")
    client.say(b"one\n")
    await eventually(lambda: echo.heard == [b"one\n"])
    assert await client.hears_nothing()
    await proxy.become("cut")
    with pytest.raises(ConnectionResetError):
        await client.hears()


async def test_latency_delays_each_chunk(proxy: Proxy) -> None:
    proxy.latency_s = 0.05
    client, loop = await connected(proxy), asyncio.get_running_loop()
    began_s = loop.time()
    client.say(b"one\n")
    await client.hears()
    assert loop.time() - began_s >= 2 * proxy.latency_s


async def test_who_leaves_the_block_leaves_no_connection(echo: Echo) -> None:
    server = await asyncio.start_server(echo.serve, LOOPBACK, 0)
    async with Proxy(0, server.sockets[0].getsockname()[1]) as proxy:
        client = await connected(proxy)
        client.say(b"one\n")
        await client.hears()
    with pytest.raises(ConnectionResetError):
        await client.hears()
    assert proxy.connections == 0
    server.close()
