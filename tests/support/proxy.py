"""A TCP proxy between clients and one server, both on this host, which breaks connections as networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Literal, Self, TypeAlias

from support.real_kafka import LOOPBACK

State: TypeAlias = Literal["passes", "cut", "stalled", "deaf"]

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: a socket that is closed so sends RST."""


class Proxy:
    """Passes bytes between its own port and a server's, until it is told otherwise.

    passes: All of them, each chunk after the latency.
    cut: Connections are reset, and new ones reset at once: a server that is gone.
    stalled: Nothing is passed, no end either, and new connections are taken: a cable that is pulled. What
        was sent meanwhile arrives afterwards, late, as TCP would deliver it.
    deaf: Clients' bytes pass, answers don't: what was asked for is done, and nobody is told.

    Attributes:
        port: Where clients connect to.
        server_port: Where the server listens.
        latency_s: By how much each chunk is late, in seconds.
    """

    def __init__(self, port: int, server_port: int) -> None:
        """Listen nowhere yet.

        Args:
            port: The proxy's own; 0: any.
            server_port: Where the server listens, on the loopback interface.
        """
        self.port = port
        self.server_port = server_port
        self.latency_s = 0.0
        self._state: State = "passes"
        self._changed = asyncio.Condition()
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many there are, of those that stall the ones whose client has gone included."""
        return len(self._links)

    async def become(self, state: State) -> None:
        """Treat all connections so from now on."""
        self._state = state
        if state == "cut":
            for writer in list(self._writers):
                _reset(writer)
        async with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        self._writers.add(writer)
        try:
            await self._until_passed(to_server=True)
            if self._state != "cut":
                await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the connection is over, and so is the proxy if it is cancelled
        finally:
            self._links.discard(link)
            self._writers.discard(writer)
            _reset(writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(LOOPBACK, self.server_port)
        self._writers.add(to_server)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, to_server, to_server=True))
                pumps.create_task(self._pump(from_server, writer, to_server=False))
        except* OSError:
            pass  # either side has reset it
        finally:
            self._writers.discard(to_server)
            _reset(to_server)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_server: bool
    ) -> None:
        while True:
            try:
                chunk: bytes | None = await reader.read(CHUNK)
            except OSError:
                chunk = None
            await self._until_passed(to_server=to_server)
            if chunk is None or self._state == "cut":
                raise ConnectionResetError
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            if not chunk:
                writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()

    async def _until_passed(self, *, to_server: bool) -> None:
        holds = ("stalled",) if to_server else ("stalled", "deaf")
        if self._state in holds:
            async with self._changed:
                await self._changed.wait_for(lambda: self._state not in holds)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST; what has not been sent is dropped."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
