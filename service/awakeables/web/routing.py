"""Routing: a tree over the segments of the raw path.

The path is split before it is decoded, so that `%2F` stays inside its segment. A tree of our own instead of
Starlette's list of regular expressions, in which a call would be the last to match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_to_bytes

from awakeables.core.texts import excerpt
from awakeables.web.problems import Problem, bad_request
from awakeables.web.request import Route
from awakeables.web.tokenfile import Scope

ANYTHING = "*"
MAX_PARAMETERS = 20


@dataclass(frozen=True, slots=True)
class Target:
    """A route, its query parameters, the scope that it requires, and its path template.

    With `own`, callers that can have invocations of their own need not have that scope.
    """

    route: Route
    parameters: Sequence[str]
    scope: Scope | None
    template: str
    own: bool = False


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """A row of the routing table, as added."""

    method: str
    path: str
    scope: Scope | None
    parameters: Sequence[str]


@dataclass(slots=True)
class _Node:
    fixed: dict[str, _Node] = field(default_factory=dict)
    variable: _Node | None = None
    methods: dict[str, Target] = field(default_factory=dict)


class Routes:
    """The routing table. A fixed segment takes precedence over a variable one.

    Attributes:
        rows: The rows in the order in which they were added.
    """

    def __init__(self) -> None:
        self.rows: list[RouteEntry] = []
        self._root = _Node()

    def add(
        self,
        method: str,
        path: str,
        route: Route,
        *,
        scope: Scope | None,
        own: bool = False,
        parameters: Sequence[str] = (),
    ) -> None:
        """Add a row.

        Args:
            method: The HTTP method.
            path: The path; `*` matches one segment that isn't empty.
            route: Handles the requests.
            scope: The scope that a token needs; None if no token is needed.
            own: Also allow the caller that began the invocation; the route checks that.
            parameters: The query parameters that it accepts.
        """
        node = self._root
        for segment in path[1:].split("/"):
            if segment == ANYTHING:
                node.variable = node.variable or _Node()
                node = node.variable
            else:
                node = node.fixed.setdefault(segment, _Node())
        node.methods[method] = Target(route, parameters, scope, path, own)
        self.rows.append(RouteEntry(method, path, scope, parameters))

    def find(self, raw_path: bytes) -> tuple[dict[str, Target], tuple[str, ...]]:
        """Return the targets by method, and the values of the variable segments.

        Raises:
            Problem: No route has this path.
        """
        node = self._root
        names: list[str] = []
        text = raw_path.decode("latin-1")
        for segment in text[1:].split("/"):
            if "%" in segment or not segment.isascii():
                segment = _decoded(segment)
            child = node.fixed.get(segment)
            if child is None:
                child = node.variable
                if child is None or not segment:
                    raise nothing_at(text)
                names.append(segment)
            node = child
        if not node.methods:
            raise nothing_at(text)
        return node.methods, tuple(names)


def nothing_at(path: str) -> Problem:
    return Problem(404, "not-found", "Not found", f"nothing is served at {excerpt(path)}")


def method_not_allowed(method: str, allowed: Sequence[str]) -> Problem:
    return Problem(
        405,
        "method-not-allowed",
        "Method not allowed",
        f"{excerpt(method)} is not allowed at this path; allowed: {', '.join(allowed)}",
        headers=((b"allow", ", ".join(allowed).encode()),),
    )


def read_query(query: bytes, allowed: Sequence[str]) -> dict[str, str]:
    """Parse a query string.

    Raises:
        Problem: A parameter is unknown or repeated.
    """
    takes = f"this path takes {', '.join(allowed)}" if allowed else "this path takes none"
    try:
        pairs = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:
        raise bad_request(f"the query can't be read: {error}") from None
    parameters = dict(pairs)
    for name in parameters:
        if name not in allowed:
            raise bad_request(f"unknown query parameter {excerpt(name)}; {takes}")
    if len(parameters) != len(pairs):
        raise bad_request(f"a query parameter is repeated; {takes}, each once")
    return parameters


def _decoded(segment: str) -> str:
    """A segment as it is meant: some clients send UTF-8 without encoding it."""
    try:
        return unquote_to_bytes(segment.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise bad_request("the percent-decoded path is not UTF-8") from None
