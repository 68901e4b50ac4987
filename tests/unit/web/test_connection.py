"""What a client may take of the server: on real sockets, with time handed in where it matters."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from awakeables.web import connection as connection_module
from awakeables.web import problems
from awakeables.web.connection import (
    LINGER_S,
    MOST_PIPELINED,
    SLOWEST_BYTES_PER_S,
    SPARE,
    SPARE_PATIENCE_S,
    HttpConnection,
    WholeResponse,
)
from awakeables.web.server import WebServer
from awakeables.web.settings import ConnectionLimits

PATIENCE_S = 30.0
LARGE = 16 * 1024 * 1024


class Reader:
    """An application that reads every body, but where the path says otherwise."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.gone = asyncio.Event()
        self.go_on = asyncio.Event()

    def drain(self) -> None:
        self.go_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["path"] in ("/wait", "/late"):
            await self.go_on.wait()
        if scope["path"] not in ("/wait", "/unread") and not await self._read(receive):
            self.gone.set()
            return
        content = bytes(LARGE) if scope["path"] == "/large" else b"ok"
        length = str(len(content)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": content})

    async def _read(self, receive: Any) -> bool:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                return True


class Served:
    """What a test holds: the server, and clients that it writes to by hand."""

    def __init__(self, app: Reader, server: WebServer) -> None:
        self.app = app
        self.server = server
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def connections(self) -> list[HttpConnection]:
        return list(self.server._server.server_state.connections)  # type: ignore[arg-type]

    async def connect(self, content: bytes = b"") -> asyncio.StreamReader:
        """A client that has sent something."""
        known = set(self.connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._writers.append(writer)
        await until(lambda: set(self.connections) - known)
        await self.say(content)
        return reader

    async def say(self, content: bytes) -> None:
        """The latest client sends more."""
        self._writers[-1].write(content)
        await self._writers[-1].drain()

    async def heard(self, count: int) -> None:
        """The server has got so many bytes of an unfinished request."""
        await until(lambda: self.connections and self.connections[-1]._received >= count)

    def later(self, seconds: float) -> None:
        """Look for slow clients, so much later."""
        for connection in self.connections:
            connection.cut_if_slow(connection.loop.time() + seconds)

    def is_open(self, reader: asyncio.StreamReader) -> bool:
        """Is this client still connected, as far as it has heard?"""
        return not reader.at_eof() and reader.exception() is None

    async def end(self) -> None:
        """The latest client sends no more, and still listens."""
        self._writers[-1].write_eof()

    def abandon(self) -> None:
        """Let go of what a test that failed has left open."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await until(lambda: not self.connections)


async def until(condition: Callable[[], object], *, within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - whatever it is about tells nobody
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[Served]:
    app = Reader()
    limits = {"request_timeout": timedelta(seconds=PATIENCE_S)} | limits
    server = WebServer(app, port=0, limits=ConnectionLimits(**limits), refuse=_refuse)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.run())
        await until(lambda: server.started)
        served = Served(app, server)
        try:
            yield served
            await served.close()
        finally:
            served.abandon()
            running.cancel()


def _refuse(problem: problems.Problem) -> Any:
    return problems.response_to(problem, request_id="req_1")


async def refusal(reader: asyncio.StreamReader, status: int, type_: str) -> dict[str, str]:
    """The answer that ends a connection; its headers."""
    async with asyncio.timeout(10):
        answer = await reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert status_line.startswith(f"HTTP/1.1 {status} ")
    document = json.loads(body)
    assert (document["status"], document["type"], document["request_id"]) == (status, type_, "req_1")
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert "date" in headers
    return headers


async def nothing(reader: asyncio.StreamReader) -> None:
    """The connection ends without a word."""
    async with asyncio.timeout(10):
        with suppress(ConnectionResetError):
            assert await reader.read() == b""


POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HALF_A_HEAD = b"GET /health/live HTTP/1.1\r\n"


class Written:
    """A transport, and a response cycle of which it is a part."""

    def __init__(self) -> None:
        self.transport = self
        self.response_started = False
        self.calls: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append(b"closed")


def test_a_response_leaves_in_one_piece() -> None:
    cycle = Written()
    joined = WholeResponse(cycle)  # type: ignore[arg-type]
    joined.write(b"100 ")
    cycle.response_started = True
    for part in (b"head ", b"body ", b"more"):
        joined.write(part)
    joined.close()
    assert cycle.calls == [b"100 ", b"head body ", b"more", b"closed"]


def test_a_head_without_a_body_leaves_before_the_connection_is_closed() -> None:
    cycle = Written()
    cycle.response_started = True
    joined = WholeResponse(cycle)  # type: ignore[arg-type]
    joined.write(b"head ")
    joined.close()
    assert cycle.calls == [b"head ", b"closed"]


async def test_a_client_that_expects_100_continue_gets_it() -> None:
    async with serving() as served:
        reader = await served.connect(POST.replace(b"host: x", b"host: x\r\nexpect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await served.say(b"0123456789")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK")


async def test_the_head_of_a_response_that_has_no_body_leaves_too() -> None:
    async with serving() as served:
        reader = await served.connect(GET.replace(b"GET", b"HEAD") * 2)
        for _ in range(2):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")


# ── slow clients ────────────────────────────────────────────────────────────────────────────


async def test_slow_clients_are_disconnected_by_the_clock() -> None:
    async with serving(request_timeout=timedelta(seconds=0.1)) as served:
        reader = await served.connect(b"POST / HTTP/1.1\r\nhost: x\r\n")
        head = asyncio.ensure_future(refusal(reader, 408, "too-slow"))
        while not head.done():
            await served.say(b"x")
            await asyncio.wait([head], timeout=0.02)
        await head


async def test_a_head_that_does_not_end_in_time_is_408() -> None:
    async with serving() as served:
        reader = await served.connect(b"POST / HTTP/1.1\r\nhost")
        await served.heard(1)
        served.later(PATIENCE_S - 1)
        assert served.connections
        served.later(PATIENCE_S + 1)
        await refusal(reader, 408, "too-slow")
        assert served.app.scopes == []


async def test_a_body_that_does_not_end_in_time_is_408_and_releases_the_application() -> None:
    async with serving() as served:
        reader = await served.connect(POST + b"12345")
        await until(lambda: served.app.scopes)
        served.later(PATIENCE_S + 1)
        await until(served.app.gone.is_set, within_s=LINGER_S / 2)
        await refusal(reader, 408, "too-slow")


async def test_what_keeps_coming_earns_time() -> None:
    async with serving() as served:
        large = 100 * SLOWEST_BYTES_PER_S
        reader = await served.connect(
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (large + 1)
        )
        await served.say(bytes(large))
        await served.heard(large)
        await until(lambda: not served.connections[0].flow.read_paused)
        served.later(PATIENCE_S + 90)
        await served.say(b"!")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert len(served.app.bodies[0]) == large + 1


async def test_a_client_that_never_says_anything_is_dropped_without_a_word() -> None:
    async with serving() as served:
        reader = await served.connect()
        served.later(PATIENCE_S + 1)
        await nothing(reader)


async def test_empty_lines_are_not_a_request() -> None:
    async with serving(max_header_bytes=2000) as served:
        reader = await served.connect(b"\r\n" * 500)
        await served.heard(1000)
        served.later(PATIENCE_S + 1)
        await refusal(reader, 408, "too-slow")


async def test_a_connection_between_two_requests_is_left_alone() -> None:
    async with serving() as served:
        reader = await served.connect(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        served.later(PATIENCE_S + 1)
        await served.say(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


async def test_a_client_that_waits_for_us_is_not_slow() -> None:
    async with serving() as served:
        head = b"POST /late HTTP/1.1\r\nhost: x\r\ncontent-length: 100001\r\n\r\n"
        reader = await served.connect(head + bytes(100_000))
        await until(lambda: served.connections[0].flow.read_paused)
        served.later(1000)
        served.app.go_on.set()
        await until(lambda: not served.connections[0].flow.read_paused)
        served.later(1000 + PATIENCE_S - 1)
        await served.say(b"!")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_what_is_sent_after_an_early_answer_ends_in_time_too() -> None:
    async with serving() as served:
        large = b"POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n"
        reader = await served.connect(large)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        await served.say(bytes(20 * SLOWEST_BYTES_PER_S))
        await served.heard(20 * SLOWEST_BYTES_PER_S)
        served.later(PATIENCE_S + 1)
        await nothing(reader)


async def test_the_rest_of_a_body_after_an_early_answer_leaves_the_connection_usable() -> None:
    async with serving() as served:
        reader = await served.connect(POST.replace(b"/", b"/unread", 1) + b"1234")
        await reader.readuntil(b"ok")
        await served.say(b"567890")
        await until(lambda: served.connections[0]._since_s is None)
        assert served.connections[0].timeout_keep_alive_task is not None
        await served.say(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


async def test_an_answer_that_nobody_reads_is_dropped() -> None:
    async with serving() as served:
        await served.connect(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: served.connections[0].transport.get_write_buffer_size())
        served.later(0)
        served.later(PATIENCE_S)
        assert served.connections
        served.later(PATIENCE_S + LARGE / SLOWEST_BYTES_PER_S + 1)
        await until(lambda: not served.connections)


async def test_a_refused_client_that_goes_on_sending_is_dropped_after_a_moment() -> None:
    async with serving() as served:
        reader = await served.connect(b"nonsense\r\n\r\n")
        await refusal(reader, 400, "bad-request")
        await served.say(GET)
        served.later(LINGER_S - 1)
        assert served.connections
        served.later(LINGER_S + 1)
        await until(lambda: not served.connections)
        assert served.app.scopes == []


# ── heads ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(21)) + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x" * 3000,
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 3000,
    ],
    ids=["a large value", "many headers", "a name without end", "a value without end"],
)
async def test_headers_that_are_too_large_are_431(head: bytes) -> None:
    async with serving(max_header_bytes=2000, max_headers=20) as served:
        await refusal(await served.connect(head), 431, "headers-too-large")
        assert served.app.scopes == []


async def test_headers_at_the_bounds_are_taken() -> None:
    async with serving(max_header_bytes=2001, max_headers=2) as served:
        reader = await served.connect(b"GET / HTTP/1.1\r\nhost: x\r\nlarge: " + b"y" * 1990 + b"\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_a_path_that_is_too_long_is_414() -> None:
    async with serving() as served:
        reader = await served.connect(b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"x" * 8192))
        await refusal(reader, 414, "uri-too-long")


@pytest.mark.parametrize(
    "content", [b"\x16\x03\x01\x02\x00\x01", b"GET http://[ HTTP/1.1\r\n\r\n", b"GET / HTTP/9\r\n"]
)
async def test_what_is_not_http_is_400(content: bytes) -> None:
    async with serving() as served:
        await refusal(await served.connect(content), 400, "bad-request")


async def test_trailers_join_no_headers() -> None:
    async with serving() as served:
        chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"
        reader = await served.connect(chunked + b"0\r\nauthorization: Bearer x\r\n\r\n" + GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        assert served.app.bodies == [b"hi", b""]
        for scope in served.app.scopes:
            assert b"authorization" not in dict(scope["headers"])


@pytest.mark.parametrize("tail", [b"0\r\nx: ", b"1;"], ids=["a trailer", "a chunk's extension"])
async def test_what_follows_a_chunk_without_end_is_431(tail: bytes) -> None:
    async with serving(max_header_bytes=2000) as served:
        chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"
        reader = await served.connect(chunked)
        await until(lambda: served.app.scopes)
        await served.say(tail + b"y" * 3000)
        await refusal(reader, 431, "headers-too-large")
        await until(served.app.gone.is_set)


async def test_an_offer_to_upgrade_is_ignored() -> None:
    async with serving() as served:
        offer = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        assert (await (await served.connect(offer)).readline()).startswith(b"HTTP/1.1 200")


UPGRADE = b"host: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
INNER = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("cuts", [(), (0,), (9,), (-4, 9)], ids=["whole", "head", "early", "three"])
@pytest.mark.parametrize(
    "told",
    [
        b"content-length: %d\r\n\r\n%b" % (len(INNER), INNER),
        b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER),
    ],
    ids=["with a length", "chunked"],
)
async def test_the_body_of_a_request_that_offers_to_upgrade_is_its_body(
    told: bytes, cuts: tuple[int, ...]
) -> None:
    """curl --http2 and Java's HttpClient offer it with each first request, also with a POST."""
    request = b"POST / HTTP/1.1\r\n" + UPGRADE + told
    head = request.index(b"\r\n\r\n") + 4
    places = [0, *sorted(head + cut for cut in cuts), len(request)]
    pieces = [request[begin:end] for begin, end in itertools.pairwise(places)]
    pieces[-1] += GET
    async with serving() as served:
        reader = await served.connect(pieces[0])
        for piece in pieces[1:]:
            await asyncio.sleep(0.02)
            await served.say(piece)
        for _ in range(2):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        assert served.app.bodies == [INNER, b""]
        assert [scope["path"] for scope in served.app.scopes] == ["/", "/"]


async def test_offers_one_after_the_other_are_all_ignored() -> None:
    async with serving() as served:
        without = b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n"
        with_body = b"POST / HTTP/1.1\r\n" + UPGRADE + b"content-length: 2\r\n\r\nhi"
        reader = await served.connect((without + with_body) * 3)
        for _ in range(6):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        assert served.app.bodies == [b"", b"hi"] * 3


async def test_a_body_that_does_not_come_behind_an_offer_is_cut_off_like_any_other() -> None:
    async with serving() as served:
        offer = b"POST /unread HTTP/1.1\r\n" + UPGRADE + b"content-length: 9\r\n\r\nhi"
        reader = await served.connect(offer)
        await reader.readuntil(b"ok")
        served.later(PATIENCE_S + 1)
        await until(lambda: not served.connections)


# ── many ────────────────────────────────────────────────────────────────────────────────────


async def test_connections_past_the_limit_get_503_and_others_go_on() -> None:
    async with serving(max_connections=1) as served:
        first = await served.connect(GET)
        await first.readuntil(b"ok")
        headers = await refusal(await served.connect(GET), 503, "overloaded")
        assert headers["retry-after"] == "1"


async def test_a_place_that_becomes_free_is_given_again() -> None:
    async with serving(max_connections=1) as served:
        first = await served.connect(GET)
        await first.readuntil(b"ok")
        await served.close()
        second = await served.connect(GET)
        assert (await second.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


async def test_case_o13_health_is_answered_however_many_slow_connections_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "SPARE_PATIENCE_S", PATIENCE_S)  # however slow this machine is
    async with serving(max_connections=2) as served:
        slow = [await served.connect(POST if n < 2 else HALF_A_HEAD) for n in range(2 + SPARE)]
        assert len(served.connections) == 2 + SPARE
        reader = await served.connect(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        await refusal(await served.connect(GET), 503, "overloaded")
        await until(lambda: any(reader.at_eof() or reader.exception() for reader in slow))
        assert all(map(served.is_open, slow[:2]))
        assert sum(map(served.is_open, slow)) > SPARE - 2


async def test_case_o13_a_spare_connection_that_is_slow_is_cut_off_soon() -> None:
    async with serving(max_connections=1) as served:
        first, spare = await served.connect(POST), await served.connect(HALF_A_HEAD)
        await until(lambda: all(connection._received for connection in served.connections))
        served.later(SPARE_PATIENCE_S + 1)
        await refusal(spare, 408, "too-slow")
        assert served.is_open(first)


async def test_requests_may_be_pipelined_but_not_without_end() -> None:
    async with serving() as served:
        reader = await served.connect(GET * 5)
        for _ in range(5):
            assert b"HTTP/1.1 200" in await reader.readuntil(b"ok")
        reader = await served.connect(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n" + GET * (MOST_PIPELINED + 1))
        await nothing(reader)
        assert len(served.app.scopes) == 6
        served.app.go_on.set()


async def test_a_drain_does_not_wait_for_refused_clients() -> None:
    async with serving() as served:
        reader = await served.connect(b"nonsense\r\n\r\n")
        await refusal(reader, 400, "bad-request")
        served.server.stop()
        await until(lambda: not served.connections)


# ── odd framing ─────────────────────────────────────────────────────────────────────────────

HOST = b"host: x\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n",
        b"GET / HTTP/1.1\r\nhost:\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: [::1].evil.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost@evil.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost, evil.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost/x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: [::g]\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x:80:80\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"authorization: a\r\nAuthorization: b\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"content-type: a/b\r\ncontent-type: c/d\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 1, 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\n" + HOST + b"content-length: +1\r\n\r\nx",
        b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"content-length: 5\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + CHUNKED * 2 + b"\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: gzip\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n1\nx\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n0x1\r\nx\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"x: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"x: a\ny: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"x(y): a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"x: a\x00b\r\n\r\n",
        b"GET http://y/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://u@x/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET ftp://x/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /#b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)
async def test_case_o12_what_two_programs_could_read_differently_is_400(content: bytes) -> None:
    async with serving() as served:
        await refusal(await served.connect(content), 400, "bad-request")
        assert served.app.bodies in ([], [b""])


@pytest.mark.parametrize(
    ("content", "status", "type_"),
    [
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            "transfer-encoding",
        ),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 501, "transfer-encoding"),
        (b"POST / HTTP/1.0\r\nhost: x\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 501, "transfer-encoding"),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505, "http-version"),
        (b"GET /\r\n\r\n", 505, "http-version"),
    ],
)
async def test_case_o12_other_codings_and_versions_are_not_taken(
    content: bytes, status: int, type_: str
) -> None:
    async with serving() as served:
        await refusal(await served.connect(content), status, type_)
        assert served.app.scopes == []


@pytest.mark.parametrize(
    "host",
    [b"x", b"X.Example.", b"127.0.0.1:8080", b"[::1]", b"[::1]:8080", b"a-b.c.d", b"xn--bcher-kva.de"],
)
async def test_case_o12_a_host_as_it_should_be_is_taken(host: bytes) -> None:
    async with serving() as served:
        for target in (b"/", b"http://" + host + b"/"):
            reader = await served.connect(b"GET " + target + b" HTTP/1.1\r\nhost: " + host + b"\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        assert [scope["raw_path"] for scope in served.app.scopes] == [b"/", b"/"]


async def test_a_host_of_docker_is_taken() -> None:
    async with serving() as served:
        reader = await served.connect(b"GET / HTTP/1.1\r\nhost: shop_service_1:8080\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("content", [GET, POST + b"0123456789", GET + GET])
async def test_case_o12_a_client_that_sends_no_more_is_answered(content: bytes) -> None:
    async with serving() as served:
        reader = await served.connect(content.replace(b" / ", b" /late ", 1))
        await served.end()
        if content.count(b"HTTP/1.1") == 1:  # else it is not read before the first is answered
            await until(lambda: served.connections[0]._ended)
        served.app.go_on.set()
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert answer.count(b"HTTP/1.1 200") == content.count(b"HTTP/1.1")


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n", POST + b"01234"])
async def test_a_client_that_ends_within_its_request_is_gone(content: bytes) -> None:
    async with serving() as served:
        reader = await served.connect(content)
        await served.end()
        await nothing(reader)
        assert served.app.bodies == []
