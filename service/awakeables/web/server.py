"""The HTTP server: uvicorn, run in our event loop and task group."""

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
from awakeables.web.connection import HttpConnection, Refuse
from awakeables.web.settings import ConnectionLimits

LONGEST_CHECK_INTERVAL_S = 1.0
"""Maximum interval between checks for slow clients; a check costs microseconds per connection."""

KEEP_ALIVE_S = 75
"""Longer than the idle time-out of common load balancers (60 s), so that they close first."""


class Served(Protocol):
    """An ASGI application that can drain."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def drain(self) -> None:
        """Answer waiting requests now."""
        ...


class WebServer:
    """Serves an app on a port that is bound on construction.

    It handles no signals; the caller must call `stop`.

    Attributes:
        port: The port that is bound, also if 0 was given.
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
        """Bind the port. Connections are accepted once `run` is called.

        Args:
            app: The application to serve.
            host: The address to listen on.
            port: The port; 0 picks a free one.
            grace: How long requests in progress may take after `stop`.
            access_log: Whether uvicorn logs a line per request.
            limits: The limits of each connection.
            refuse: Makes the response for a client that exceeds a limit.

        Raises:
            OperatorError: The port can't be bound.
        """
        self._app = app
        self._host = host
        self._socket = _bound(host, port)
        close_in_children(self._socket, _close_descriptor)
        self.port: int = self._socket.getsockname()[1]
        limits = limits or ConnectionLimits()
        protocol: Any = functools.partial(HttpConnection, limits=limits, refuse=refuse)
        self._check_interval_s = min(LONGEST_CHECK_INTERVAL_S, limits.request_timeout.total_seconds() / 4)
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
        """Whether connections are accepted."""
        return self._server.started

    async def run(self) -> None:
        """Serve until `stop`, then answer the requests in progress, within the grace period.

        Closes at once if cancelled.
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
            await asyncio.sleep(self._check_interval_s)
            now_s = loop.time()
            for connection in list(self._server.server_state.connections):
                assert isinstance(connection, HttpConnection)
                connection.cut_if_slow(now_s)

    def stop(self) -> None:
        """Stop accepting requests and answer those that wait."""
        self._app.drain()
        self._server.should_exit = True

    def close(self) -> None:
        """Release the port without having run."""
        self._socket.close()


class _UvicornServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signal handling to the caller."""
        yield


def is_exposed(host: str) -> bool:
    """Whether other machines could reach a server on this host.

    Raises:
        OperatorError: The host can't be resolved.
    """
    addresses = [str(address[0]) for *_, address in _addresses(host, 0)]
    return not all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _addresses(host: str, port: int) -> list[tuple[Any, Any, int, str, tuple[Any, ...]]]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OperatorError(f"can't listen on {host}: {error.strerror or error}") from error


def _close_descriptor(listener: socket.socket) -> None:
    """Close the descriptor in a child: `close` would wait for the loop, which runs only in the parent."""
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
                f"port {port} on {host} is in use; stop the other process, or choose another port"
            ) from error
        raise OperatorError(f"can't listen on port {port} of {host}: {error.strerror or error}") from error
    return listener
