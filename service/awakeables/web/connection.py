"""One client connection: uvicorn's protocol, with limits on what a client may send and how slowly.

uvicorn limits neither the size of a request's head nor the time that it takes, httptools buffers an
unfinished element without limit, and both add trailers to the headers. Without a proxy in front, these
limits are the defence against slow and hostile clients. What is rejected here never reaches the
application, so the response is written by hand. tests/unit/web/test_uvicorn.py lists which of uvicorn's
internals this uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from awakeables.web.framing import objection_to
from awakeables.web.problems import Problem, bad_request
from awakeables.web.request import Response
from awakeables.web.settings import ConnectionLimits

Refuse = Callable[[Problem], Response]

SLOWEST_BYTES_PER_S: Final = 16 * 1024
"""Minimum transfer rate of a client: a large body on a slow line is not an attack."""

LINGER_S: Final = 2.0
"""How long a rejected client may keep sending. If closed at once, it would see a reset, not the response."""

MOST_PIPELINED: Final = 16
"""Requests queued behind an unanswered one. Hardly any client pipelines, but a single packet can hold ten
thousand requests, and uvicorn would queue them all."""

SPARE: Final = 50
"""Connections beyond the limit, which serve only health checks; other requests get 503. Without them an
orchestrator could not reach `/health/live` of a busy service, and would restart it."""

SPARE_PATIENCE_S: Final = 2.0
"""How long a request may take to arrive on a spare connection: a health check is one packet."""

HEALTH: Final = b"/health/"


class HttpConnection(HttpToolsProtocol):
    """A connection that is closed when its client exceeds a limit."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
        refuse: Refuse,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._patience_s = limits.request_timeout.total_seconds()
        self._answer_for = refuse
        self._problem: Problem | None = None
        self._refused = False
        self._surplus = False
        self._ended = False
        self.app = self._serve
        self._silent = True
        self._in_body = False
        self._since_s: float | None = None  # when the request that is arriving began
        self._received = 0  # bytes since then
        self._unparsed = 0  # bytes since the parser last called us
        self._unread_since_s: float | None = None
        self._unread = 0
        self._reframed = b""  # the head that the parser gets after an ignored offer to upgrade

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since_s = self.loop.time()
        self._surplus = len(self.connections) > self._limits.max_connections
        if self._surplus:
            self._patience_s = min(self._patience_s, SPARE_PATIENCE_S)
        if len(self.connections) > self._limits.max_connections + SPARE:
            self._make_room()

    def _make_room(self) -> None:
        """Drop the slowest spare connection in favour of this one, the newest."""
        slow = [
            (connection._since_s, connection)
            for connection in self.connections
            if isinstance(connection, HttpConnection)
            and connection is not self
            and connection._surplus
            and connection._since_s is not None
            and not connection.transport.is_closing()
        ]
        _, dropped = min(slow, key=lambda pair: pair[0], default=(0.0, self))
        dropped.transport.abort()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has finished sending: answer complete requests, then close the connection.

        The client may be gone altogether, which shows only on the next write. So the application
        receives a disconnect, and a waiting call is answered at once with its current state.
        """
        if self.cycle is None or self.cycle.response_complete or self._in_body or self._refused:
            return False
        self._ended = True
        self.cycle.keep_alive = False
        for cycle in (self.cycle, *(cycle for cycle, _ in self.pipeline)):
            cycle.message_event.set()
        return True

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application. After the body's end it receives nothing but the disconnect."""
        complete = False

        async def receive_once() -> Message:
            nonlocal complete
            if not complete:
                message = await receive()
                complete = not message.get("more_body", False)
                return message
            if not self._ended:
                await receive()
            return {"type": "http.disconnect"}

        await self.config.loaded_app(scope, receive_once, send)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._silent = False
        if self._since_s is None:
            self._begin()
        self._received += len(data)
        self._unparsed += len(data)
        try:
            self._parse(data)
        except HttpParserError as error:
            self._refuse(self._problem or bad_request(f"the request is not valid HTTP: {error}"))
        else:
            if self._unparsed > self._limits.max_header_bytes:
                self._refuse(self._head_too_large())

    def _parse(self, data: bytes) -> None:
        """Parse what has arrived; ignore an upgrade offer, as RFC 9110 (7.8) allows.

        curl --http2 and Java's HttpClient offer h2c in the first request of a connection, even a POST.
        The parser then takes everything after the head, including the body, for the other protocol and
        stops. So it is fed another head that has only the body's framing; otherwise the body would be
        dropped and the call would hang.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self.parser.feed_data(self._reframed)
            else:
                return

    def on_message_begin(self) -> None:
        if self._since_s is None:
            self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._reframed:
            self._reframed = b""
            return
        self._problem = self._objection()
        if self._problem is not None:
            raise _Refused
        super().on_headers_complete()
        if self.parser.get_method() != b"HEAD":  # whose responses have no body to wait for
            self.cycle.transport = WholeResponse(self.cycle)  # type: ignore[assignment]
        if self._surplus:
            self.cycle.keep_alive = False  # free the connection for the next health check
        self._in_body = True
        self._unparsed = 0
        if self.parser.should_upgrade():
            self._reframed = _framing_of(self.headers)
        self.headers = []  # trailers are added here, not to the headers of the request

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unparsed = 0

    def on_message_complete(self) -> None:
        if self._reframed:
            return  # the body has not arrived yet
        super().on_message_complete()
        self._since_s = None
        self._in_body = False
        self._unparsed = 0
        if self.cycle.response_complete and not self.transport.is_closing():
            # Answered before the body's end: the data since then has stopped uvicorn's own timer.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def cut_if_slow(self, now_s: float) -> None:
        """Close the connection if its client is too slow; called periodically."""
        if self._is_unread(now_s):
            self.transport.abort()
        elif self._since_s is None or self.transport.is_closing():
            return
        elif self.flow.read_paused:
            self._since_s = now_s  # the client is waiting for us
        elif now_s - self._since_s > self._allowed_s():
            if self._refused:
                self.transport.abort()
            else:
                self._refuse(_too_slow(self._patience_s))

    def _begin(self) -> None:
        self._since_s = self.loop.time()
        self._received = 0

    def _allowed_s(self) -> float:
        if self._refused:
            return LINGER_S
        if self._in_body and self.cycle.response_complete:
            return self._patience_s  # already answered: the rest of the body is not needed
        return self._patience_s + self._received / SLOWEST_BYTES_PER_S

    def _objection(self) -> Problem | None:
        limits = self._limits
        if self._surplus and not self.url.startswith(HEALTH):
            return _too_many(limits.max_connections)
        if len(self.url) > limits.max_target_bytes:
            return _target_too_long(limits.max_target_bytes)
        size = sum(map(len, chain.from_iterable(self.headers)))
        if size + len(self.url) > limits.max_header_bytes or len(self.headers) > limits.max_headers:
            return self._head_too_large()
        if len(self.pipeline) >= MOST_PIPELINED:
            return bad_request(f"at most {MOST_PIPELINED} pipelined requests may wait behind another")
        return objection_to(self.parser.get_http_version(), self.url, self.headers)

    def _refuse(self, problem: Problem) -> None:
        self._refused = True
        if not self._may_answer():
            self.transport.close()
            return
        if self._in_body:
            # The application waits for the rest of the body; to it, the client has disconnected.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        answer = self._answer_for(problem)
        headers = [*self.server_state.default_headers, *answer.headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + answer.body)
        self.transport.write_eof()
        self._since_s = self.loop.time()

    def _may_answer(self) -> bool:
        """Whether the client waits for the response to the request that is arriving, and no earlier one."""
        if self.pipeline or self._silent:
            return False
        if self._in_body:
            return not self.cycle.response_started
        return self.cycle is None or self.cycle.response_complete

    def _is_unread(self, now_s: float) -> bool:
        """Whether the client has left its response unread for too long."""
        size = self.transport.get_write_buffer_size()
        if not size:
            self._unread_since_s = None
            return False
        if self._unread_since_s is None:
            self._unread_since_s, self._unread = now_s, size
        return now_s - self._unread_since_s > self._patience_s + self._unread / SLOWEST_BYTES_PER_S

    def _head_too_large(self) -> Problem:
        limits = self._limits
        detail = f"the limit is {limits.max_headers} headers and {limits.max_header_bytes:,} bytes in total"
        return Problem(431, "headers-too-large", "The request's headers are too large", detail)


class WholeResponse:
    """The transport as one response cycle sees it: the head leaves together with the beginning of the body.

    uvicorn writes the head by itself. But each write is a packet that wakes the client, which can do
    nothing with half of a response: written as one, a callback's cycle costs a sixth less.
    """

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._head: bytes | None = b""  # empty: not written yet; None: it has left

    def write(self, data: bytes) -> None:
        if self._head is None or not self._cycle.response_started:  # not started: `100 Continue`
            self._transport.write(data)
        elif self._head:
            head, self._head = self._head, None
            self._transport.write(head + data)
        else:
            self._head = data

    def close(self) -> None:
        if self._head:  # the application failed before the body
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def _framing_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    """A head that has only the headers that frame the body."""
    framing = [
        b"%b: %b\r\n" % header for header in headers if header[0] in (b"content-length", b"transfer-encoding")
    ]
    return b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing)


class _Refused(Exception):
    """Stops the parser; `_problem` says why."""


def _target_too_long(most: int) -> Problem:
    return Problem(
        414, "uri-too-long", "The path is too long", f"the limit for path and query is {most:,} bytes"
    )


def _too_many(most: int) -> Problem:
    detail = f"{most:,} connections are open already (AWAKEABLES_MAX_CONNECTIONS); try again later"
    return Problem(503, "overloaded", "The service is overloaded", detail)


def _too_slow(patience_s: float) -> Problem:
    detail = (
        f"the request was not complete after {patience_s:g} s "
        f"and arrived at less than {SLOWEST_BYTES_PER_S:,} bytes per second"
    )
    return Problem(408, "too-slow", "The request took too long", detail)
