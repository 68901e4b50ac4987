"""Answers over HTTP: connections that are kept, each with one request at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools

MOST_LINES = 256
"""Connections to one server; as many as calls in flight, so that no answer waits for a connection."""


class NotTaken(Exception):
    """A server did not take an answer."""


class Lines:
    """The connections to one server; the next answer takes the one that was free last."""

    def __init__(self, url: str) -> None:
        """Opens nothing yet.

        Args:
            url: What stands before the path of every request.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port or 80
        self._prefix = parts.path
        self._free: list[_Line] = []
        self._open = 0
        self._waiting: deque[bytes] = deque()
        self._refused: NotTaken | None = None

    async def post(self, path: str, body: bytes) -> None:
        """Send an answer; returns before it is taken.

        Raises:
            NotTaken: An earlier one was not.
        """
        if self._refused is not None:
            raise self._refused
        request = (
            f"POST {self._prefix}{path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body
        if self._free:
            self._free.pop().send(request)
        elif self._open < MOST_LINES:
            self._open += 1
            loop = asyncio.get_running_loop()
            _, line = await loop.create_connection(lambda: _Line(self), self._host, self._port)
            line.send(request)
        else:
            self._waiting.append(request)

    def done(self, line: _Line, status: int) -> None:
        """A request was answered."""
        if status not in (200, 202):
            self._refused = NotTaken(f"{self._host}:{self._port} answered {status}")
        elif self._waiting:
            line.send(self._waiting.popleft())
        else:
            self._free.append(line)

    def lost(self, line: _Line, *, busy: bool) -> None:
        """A connection is gone."""
        self._open -= 1
        if busy:
            self._refused = NotTaken(f"{self._host}:{self._port} hung up on an answer")
        elif line in self._free:
            self._free.remove(line)


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._busy = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self._busy = True
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._busy = False
        self._lines.done(self, self._parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        self._lines.lost(self, busy=self._busy)
