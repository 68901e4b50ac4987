"""How requests to functions fail, and what is said of it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import httpx
import pytest

from awakeables import RemoteService
from awakeables.handlers.remoteservice import MAX_BYTES
from awakeables.remote.client import FunctionClient, FunctionFailed
from awakeables.remote.signing import HEADER, Signer, Verifier
from awakeables.remote.transport import AiohttpTransport
from awakeables.world import SystemClock
from support.functions import PRIVATE, PUBLIC, ThroughHttpx

Answer = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


def client(answer: Answer) -> FunctionClient:
    return FunctionClient(SystemClock(), ThroughHttpx(httpx.MockTransport(answer)), Signer(PRIVATE))


def service(**options: Any) -> RemoteService:
    return RemoteService("orders", **{"url": "http://function.test/shop"} | options)


async def failure(asked: FunctionClient, of: RemoteService, body: bytes = b"{}") -> FunctionFailed:
    with pytest.raises(FunctionFailed) as failed:
        await asked.advance(of, body)
    await asked.close()
    return failed.value


async def test_a_request_is_signed_and_goes_to_the_url() -> None:
    seen: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"answer")

    asked = client(answer)
    assert await asked.advance(service(), b"{}") == b"answer"
    assert await asked.describe(service()) == b"answer"
    await asked.close()
    posted, got = seen
    assert (posted.method, str(posted.url), posted.content) == ("POST", "http://function.test/shop", b"{}")
    assert got.method == "GET"
    for request in seen:
        Verifier([PUBLIC]).check(request.headers[HEADER], request.method, request.content, now_s=time.time())


@pytest.mark.parametrize(
    ("status", "content", "lasting", "told"),
    [
        (500, b"oops", False, "answered with 500: 'oops'"),
        (404, b'{"detail": 1}', False, "404: '{\"detail\": 1}'"),
        (302, b"", False, "302: ''"),
        (413, b'{"detail": "6 bytes"}', True, "413: 6 bytes"),
    ],
)
async def test_an_answer_other_than_200_says_what_it_was(
    status: int, content: bytes, lasting: bool, told: str
) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=content)

    failed = await failure(client(answer), service())
    assert (failed.kind, failed.lasting) == ("FunctionRefused", lasting)
    assert told in str(failed)
    assert "the function of orders at http://function.test/shop" in str(failed)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("signs", [True, False])
async def test_one_that_refuses_our_signature_names_the_setting(status: int, signs: bool) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"detail": "another key"})

    transport = ThroughHttpx(httpx.MockTransport(answer))
    asked = FunctionClient(SystemClock(), transport, Signer(PRIVATE) if signs else None)
    failed = await failure(asked, service())
    assert failed.kind == "FunctionUnauthorized"
    assert f"answered with {status}: another key" in str(failed)
    assert ("AWAKEABLES_FUNCTION_KEY is not set" in str(failed)) == (not signs)


async def test_one_that_is_not_there_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        failed = await failure(FunctionClient(SystemClock(), AiohttpTransport()), service(url=url))
    assert (failed.kind, failed.lasting) == ("FunctionUnreachable", False)
    assert f"the function of orders at {url} can't be reached" in str(failed)


async def test_one_that_does_not_answer_in_time_is_given_up() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(10)
        raise AssertionError

    failed = await failure(client(answer), service(timeout=timedelta(seconds=0.02)))
    assert failed.kind == "FunctionTimedOut"
    assert "within 0.02 s" in str(failed)


async def test_one_whose_answer_trickles_is_given_up_as_well() -> None:
    async def trickle() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.005)

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=trickle())

    failed = await failure(client(answer), service(timeout=timedelta(seconds=0.05)))
    assert failed.kind == "FunctionTimedOut"


async def test_an_answer_without_end_is_given_up() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"x" * (MAX_BYTES + 1))

    assert (await failure(client(answer), service())).kind == "AnswerTooLarge"


async def test_a_request_that_is_too_large_is_not_sent() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError

    failed = await failure(client(answer), service(max_request_bytes=1))
    assert (failed.kind, failed.lasting) == ("RequestTooLarge", True)
    assert "has 2 bytes" in str(failed)


class TestOverSockets:
    """What aiohttp makes of servers that do not behave."""

    @staticmethod
    async def answered(content: bytes, *, url: str = "", **options: Any) -> Any:
        """What the client makes of these bytes, after which the server closes the connection."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(content)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        asked = FunctionClient(SystemClock(), AiohttpTransport())
        try:
            return await asked.describe(service(url=f"http://127.0.0.1:{port}", **options))
        except FunctionFailed as failed:
            return failed
        finally:
            await asked.close()
            server.close()
            await server.wait_closed()

    async def test_an_answer_is_read(self) -> None:
        told = await self.answered(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        assert told == b"ok"

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
            b"SSH-2.0-OpenSSH_9.6\r\n",
        ],
        ids=["closed", "half a head", "half an answer", "another protocol"],
    )
    async def test_what_breaks_off_is_unreachable(self, content: bytes) -> None:
        assert (await self.answered(content)).kind == "FunctionUnreachable"

    async def test_a_redirect_is_not_followed(self) -> None:
        head = b"HTTP/1.1 307 T\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
        failed = await self.answered(head)
        assert (failed.kind, "answered with 307" in str(failed)) == ("FunctionRefused", True)

    async def test_an_answer_without_end_is_cut(self) -> None:
        size = MAX_BYTES + 1
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {2 * size}\r\n\r\n".encode()
        assert (await self.answered(head + bytes(size))).kind == "AnswerTooLarge"
