"""The server: on a real socket, in a loop and a task group of ours."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from awakeables.errors import OperatorError
from awakeables.web.server import WebServer


class SlowApp:
    """Answers at once, when it is drained, or never.

    Attributes:
        asked: Set once there was a request.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.drained = asyncio.Event()

    def drain(self) -> None:
        self.drained.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.set()
        if scope["path"] == "/drained":
            await self.drained.wait()
        if scope["path"] == "/never":
            await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


def server_on(port: int = 0, app: SlowApp | None = None, **options: Any) -> WebServer:
    return WebServer(app or SlowApp(), port=port, **options)


async def started(server: WebServer) -> None:
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)


async def within(seconds: float, work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(seconds):
        return await work


async def test_it_serves_in_our_task_group_and_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    server = server_on()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run())
        await started(server)
        assert signal.getsignal(signal.SIGTERM) is before
        async with httpx.AsyncClient(base_url=server.url) as client:
            response = await client.get("/")
        assert response.text == "ok"
        assert "server" not in response.headers
        server.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


async def test_a_port_in_use_is_reported_before_anything_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"port {port} on 127.0.0.1 is in use"):
            server_on(port)


async def test_a_host_that_is_not_here_is_reported() -> None:
    with pytest.raises(OperatorError, match="can't listen on"):
        WebServer(SlowApp(), host="192.0.2.1", port=0)
    with pytest.raises(OperatorError, match=r"can't listen on nowhere\.invalid"):
        WebServer(SlowApp(), host="nowhere.invalid", port=0)


async def test_stop_answers_what_waits_and_ends() -> None:
    app = SlowApp()
    server = server_on(app=app)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run())
        await started(server)
        async with httpx.AsyncClient(base_url=server.url) as client:
            waiting = tasks.create_task(client.get("/drained"))
            await app.asked.wait()
            server.stop()
            assert (await within(2, waiting)).text == "ok"


async def test_the_grace_is_bounded() -> None:
    app = SlowApp()
    server = server_on(app=app, grace=timedelta(seconds=1))
    serving = asyncio.ensure_future(server.run())
    await started(server)
    async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:
        waiting = asyncio.ensure_future(client.get("/never"))
        await app.asked.wait()
        server.stop()
        await within(3, serving)
        await asyncio.wait([waiting], timeout=2)
        assert waiting.done()
        assert waiting.exception() is not None or waiting.result().status_code == 500


async def test_cancelled_it_releases_the_port() -> None:
    server = server_on()
    port = server.port
    serving = asyncio.ensure_future(server.run())
    await started(server)
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled()
    again = server_on(port)
    again.close()
