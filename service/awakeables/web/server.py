"""The HTTP server: uvicorn inside a loop and a task group of ours."""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from awakeables.errors import OperatorError
from awakeables.forks import close_in_children
from awakeables.web import problems
from awakeables.web.connection import Connection, Refuse
from awakeables.web.settings import ConnectionLimits

LONGEST_LOOK_S = 1.0
"""The longest interval between checks for slow clients; one costs microseconds per connection."""

KEEP_ALIVE_S = 75
"""Longer than the idle time of the usual load balancers (60 s), so that they close first."""


class Served(Protocol):
    """An ASGI application that can be told to let its requests go."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def drain(self) -> None:
        """Response what waits, now."""
        ...


class WebServer:
    """Serves an app on a port that is taken as soon as this is made.

    It handles no signals: whoever runs it calls `stop`.

    Attributes:
        port: Which port it is, also when any was asked for.
    """

    def __init__(
        self,
        app: Served,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        grace: timedelta = timedelta(seconds=10),
        access_log: bool = False,
        limits: ConnectionLimits | None = None,
        refuse: Refuse = problems.response_to,
    ) -> None:
        """Take the port; connections are accepted when it runs.

        Args:
            app: What is served.
            host: The address to listen on.
            port: 0 takes any that is free.
            grace: How long requests that are under way may take after `stop`.
            access_log: A line per request, by uvicorn's logger.
            limits: What a client may take.
            refuse: Words the answer to one that takes more.

        Raises:
            OperatorError: The port can't be had.
        """
        self._app = app
        self._host = host
        self._socket = _bound(host, port)
        close_in_children(self._socket, _close_descriptor)
        self.port: int = self._socket.getsockname()[1]
        limits = limits or ConnectionLimits()
        protocol: Any = functools.partial(Connection, limits=limits, refuse=refuse)
        self._look_every_s = min(LONGEST_LOOK_S, limits.request_timeout.total_seconds() / 4)
        self._server = _UvicornServer(
            uvicorn.Config(
                app,
                http=protocol,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=access_log,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(grace.total_seconds())),
            )
        )

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    @property
    def started(self) -> bool:
        """Are connections accepted?"""
        return self._server.started

    async def run(self) -> None:
        """Serve until `stop`, then until the requests under way are answered, within the grace.

        Cancelled, it closes at once.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                cutting = tasks.create_task(self._cut_slow_clients(), name="slow-clients")
                await self._server.serve(sockets=[self._socket])
                cutting.cancel()
        finally:
            for listener in getattr(self._server, "servers", ()):
                listener.close()
            self.close()
            for connection in list(self._server.server_state.connections):
                connection.shutdown()
            for task in list(self._server.server_state.tasks):
                task.cancel()

    async def _cut_slow_clients(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._look_every_s)
            now_s = loop.time()
            for connection in list(self._server.server_state.connections):
                assert isinstance(connection, Connection)
                connection.cut_if_slow(now_s)

    def stop(self) -> None:
        """Accept nothing more, answer what waits."""
        self._app.drain()
        self._server.should_exit = True

    def close(self) -> None:
        """Give the port back without ever having run."""
        self._socket.close()


class _UvicornServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: they are the caller's."""
        yield


def is_exposed(host: str) -> bool:
    """Would a server on this host be reached from other machines?

    Raises:
        OperatorError: The host has no address.
    """
    addresses = [str(address[0]) for *_, address in _addresses(host, 0)]
    return not all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _addresses(host: str, port: int) -> list[tuple[Any, Any, int, str, tuple[Any, ...]]]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OperatorError(f"can't listen on {host}: {error.strerror or error}") from error


def _close_descriptor(listener: socket.socket) -> None:
    """Close it now: `close` waits for the loop, which has it in use, and runs in the parent only."""
    if listener.fileno() >= 0:
        os.close(listener.fileno())


def _bound(host: str, port: int) -> socket.socket:
    [(family, kind, protocol, _, address), *_] = _addresses(host, port)
    try:
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OperatorError(f"can't listen on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OperatorError(
                f"port {port} on {host} is in use; stop what listens there, or choose another port"
            ) from error
        raise OperatorError(f"can't listen on port {port} of {host}: {error.strerror or error}") from error
    return listener
