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
from awakeables.remote.client import FunctionClient, FunctionFailed
from awakeables.remote.messages import MAX_BYTES
from awakeables.remote.signing import HEADER, Signer, Verifier
from awakeables.world import SystemClock
from support.functions import PRIVATE, PUBLIC

Answer = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


def client(answer: Answer) -> FunctionClient:
    return FunctionClient(SystemClock(), Signer(PRIVATE), httpx.MockTransport(answer))


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
        (
            401,
            b'{"detail": "another key"}',
            False,
            "401: another key",
        ),
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


async def test_one_that_is_not_there_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        failed = await failure(FunctionClient(SystemClock()), service(url=url))
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


async def test_no_more_requests_than_allowed_are_under_way() -> None:
    under_way, most = 0, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return httpx.Response(200)

    asked, of = client(answer), service(max_concurrent=3)
    await asyncio.gather(*(asked.advance(of, b"{}") for _ in range(20)))
    await asked.close()
    assert most == 3
