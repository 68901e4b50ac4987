"""One HTTP request: what a route needs of the ASGI scope, and no more.

Starlette's own `Request` searches the list of headers for each name; on the path of a call,
which looks for seven, that costs as much as everything else here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope

from awakeables.web.tokenfile import Holder

Route: TypeAlias = Callable[["Request"], Awaitable[Response]]


class Request:
    """A request on its way through its route.

    Attributes:
        names: What stood in the variable segments of the path, decoded, in order.
        query: The query's parameters, of those that the route takes; none before it was let in.
        by: Whose request it is, for people: the token's name, or where it comes from without one.
        holder: Whose token it has; None before it was let in, and where none is asked for.
        raw_headers: As received, in order, names in lower case.
    """

    __slots__ = ("_headers", "by", "holder", "method", "names", "query", "raw_headers", "receive")

    def __init__(self, scope: Scope, receive: Receive, *, names: tuple[str, ...]) -> None:
        self.method: str = scope["method"]
        self.receive = receive
        self.raw_headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.names = names
        self.query: Mapping[str, str] = {}
        self.by = ""
        self.holder: Holder | None = None
        self._headers: dict[bytes, bytes] = dict(self.raw_headers)

    def header(self, name: bytes) -> str | None:
        """A header's value; the last of several; `name` in lower case."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    def text(self, name: bytes) -> str | None:
        """A header's value as a text to keep: UTF-8, as most clients write it, or else Latin-1."""
        value = self._headers.get(name)
        if value is None:
            return None
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.decode("latin-1")

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case; empty if there is none."""
        return (self.header(b"content-type") or "").partition(";")[0].strip().lower()
