"""One client's connection: uvicorn's, with bounds on what a client may send, and how slowly.

uvicorn bounds neither the head of a request nor the time that it takes, httptools keeps what is
unfinished for ever, and trailers join the headers. What is refused here never reaches the
application, so the answer is written by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from awakeables.web.framing import objection_to
from awakeables.web.problems import Problem, bad_request
from awakeables.web.request import Answer
from awakeables.web.settings import ConnectionLimits

Refuse = Callable[[Problem], Answer]

SLOWEST_BYTES_PER_S: Final = 16 * 1024
"""What a client sends or takes earns it time: a large body on a slow line is no attack."""

LINGER_S: Final = 2.0
"""A refused client may still be sending; closed at once, it would see a reset and no answer."""

MOST_PIPELINED: Final = 16
"""Requests that wait behind an unanswered one; one packet could hold ten thousand."""

SPARE: Final = 50
"""Connections past the limit: health is answered there, all else is told of the limit."""

SPARE_PATIENCE_S: Final = 2.0
"""How long a request may take to come in over one of those: health is asked for in one packet."""

HEALTH: Final = b"/health/"


class Connection(HttpToolsProtocol):
    """A connection that ends when its client breaks a bound."""

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
        self._since_s: float | None = None  # since when we wait for the rest of a request
        self._received = 0  # bytes since then
        self._unparsed = 0  # bytes since the parser last had something for us
        self._unread_since_s: float | None = None
        self._unread = 0
        self._passed_over = b""  # the head, without its offer, of a request that the parser has let go of

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since_s = self.loop.time()
        self._surplus = len(self.connections) > self._limits.max_connections
        if self._surplus:
            self._patience_s = min(self._patience_s, SPARE_PATIENCE_S)
        if len(self.connections) > self._limits.max_connections + SPARE:
            self._make_room()

    def _make_room(self) -> None:
        """Drop the spare connection that has been slow for longest: this one, the newest, is heard."""
        slow = [
            (connection._since_s, connection)
            for connection in self.connections
            if isinstance(connection, Connection)
            and connection is not self
            and connection._surplus
            and connection._since_s is not None
            and not connection.transport.is_closing()
        ]
        _, dropped = min(slow, key=lambda pair: pair[0], default=(0.0, self))
        dropped.transport.abort()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: what it has sent whole is answered, then the connection ends.

        It may have gone altogether; that shows only when it is written to. So whatever waits on its
        behalf is told that it has gone, and answers what there is to say by then.
        """
        if self.cycle is None or self.cycle.response_complete or self._in_body or self._refused:
            return False
        self._ended = True
        self.cycle.keep_alive = False
        for cycle in (self.cycle, *(cycle for cycle, _ in self.pipeline)):
            cycle.message_event.set()
        return True

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; behind the end of the body it receives only that the client has gone."""
        whole = False

        async def news() -> Message:
            nonlocal whole
            if not whole:
                message = await receive()
                whole = not message.get("more_body", False)
                return message
            if not self._ended:
                await receive()
            return {"type": "http.disconnect"}

        await self.config.loaded_app(scope, news, send)

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
            self._refuse(self._problem or bad_request(f"this is no HTTP: {error}"))
        else:
            if self._unparsed > self._limits.max_header_bytes:
                self._refuse(self._head_too_large())

    def _parse(self, data: bytes) -> None:
        """Parse what has come; an offer to upgrade is passed over, the request is one like any other.

        The parser takes what follows such a request for the other protocol, the body too: it is told
        again how long that is.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self.parser.feed_data(self._passed_over)
            else:
                return

    def on_message_begin(self) -> None:
        if self._since_s is None:
            self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._passed_over:
            self._passed_over = b""
            return
        self._problem = self._objection()
        if self._problem is not None:
            raise _Refused
        super().on_headers_complete()
        if self._surplus:
            self.cycle.keep_alive = False  # its place is for the next who asks
        self._in_body = True
        self._unparsed = 0
        if self.parser.should_upgrade():
            self._passed_over = _without_offer(self.headers)
        self.headers = []  # trailers go here, not to the headers that decide

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unparsed = 0

    def on_message_complete(self) -> None:
        if self._passed_over:
            return  # its body is still to come
        super().on_message_complete()
        self._since_s = None
        self._in_body = False
        self._unparsed = 0
        if self.cycle.response_complete and not self.transport.is_closing():
            # Answered before its end: uvicorn's own timer was stopped by what came since.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def cut_if_slow(self, now_s: float) -> None:
        """End the connection if its client has used up its time; called now and then."""
        if self._is_unread(now_s):
            self.transport.abort()
        elif self._since_s is None or self.transport.is_closing():
            return
        elif self.flow.read_paused:
            self._since_s = now_s  # the client waits for us
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
            return self._patience_s  # it is answered already: what it still sends is of no use
        return self._patience_s + self._received / SLOWEST_BYTES_PER_S

    def _objection(self) -> Problem | None:
        limits = self._limits
        if self._surplus and not self.url.startswith(HEALTH):
            return _too_many(limits.max_connections)
        if len(self.url) > limits.max_target_bytes:
            return _target_too_long(limits.max_target_bytes)
        size = sum(len(name) + len(value) for name, value in self.headers)
        if size + len(self.url) > limits.max_header_bytes or len(self.headers) > limits.max_headers:
            return self._head_too_large()
        if len(self.pipeline) >= MOST_PIPELINED:
            return bad_request(f"at most {MOST_PIPELINED} requests may wait behind another")
        return objection_to(self.parser.get_http_version(), self.url, self.headers)

    def _refuse(self, problem: Problem) -> None:
        self._refused = True
        if not self._may_answer():
            self.transport.close()
            return
        if self._in_body:
            # The application waits for the rest of the body: to it the client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        answer = self._answer_for(problem)
        headers = [*self.server_state.default_headers, *answer.headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + answer.body)
        self.transport.write_eof()
        self._since_s = self.loop.time()

    def _may_answer(self) -> bool:
        """Is an answer to what is being received the next thing that the client expects?"""
        if self.pipeline or self._silent:
            return False
        if self._in_body:
            return not self.cycle.response_started
        return self.cycle is None or self.cycle.response_complete

    def _is_unread(self, now_s: float) -> bool:
        """Has the client left its answer untaken for too long?"""
        size = self.transport.get_write_buffer_size()
        if not size:
            self._unread_since_s = None
            return False
        if self._unread_since_s is None:
            self._unread_since_s, self._unread = now_s, size
        return now_s - self._unread_since_s > self._patience_s + self._unread / SLOWEST_BYTES_PER_S

    def _head_too_large(self) -> Problem:
        limits = self._limits
        detail = f"at most {limits.max_headers} headers of {limits.max_header_bytes:,} bytes together"
        return Problem(431, "headers-too-large", "The request's headers are too large", detail)


def _without_offer(headers: list[tuple[bytes, bytes]]) -> bytes:
    """A head that says how long the body is, and nothing else."""
    framing = [
        b"%b: %b\r\n" % header for header in headers if header[0] in (b"content-length", b"transfer-encoding")
    ]
    return b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing)


class _Refused(Exception):
    """Stops the parser; the connection knows why."""


def _target_too_long(most: int) -> Problem:
    return Problem(414, "uri-too-long", "The path is too long", f"path and query have at most {most:,} bytes")


def _too_many(most: int) -> Problem:
    detail = f"{most:,} connections are open already (AWAKEABLES_MAX_CONNECTIONS); try again later"
    return Problem(503, "overloaded", "Too much is under way", detail)


def _too_slow(patience_s: float) -> Problem:
    detail = (
        f"the request was not complete after {patience_s:g} s "
        f"and sent less than {SLOWEST_BYTES_PER_S:,} bytes a second"
    )
    return Problem(408, "too-slow", "The request took too long", detail)
