"""Lists: newest first or by name, one page at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from awakeables.core.ids import IdKind, parse_id_of
from awakeables.core.texts import excerpt
from awakeables.ports import Page
from awakeables.web.problems import bad_request
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.views import View

PAGING = ("limit", "before")
PAGING_BY_NAME = ("limit", "after")
USUAL_LIMIT = 50
LARGEST_LIMIT = 500


class _Row(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=_Row)
T = TypeVar("T")
C = TypeVar("C", bound=str)
S = TypeVar("S", bound=View)


def page_of(request: HttpRequest, *kinds: IdKind) -> Page:
    """The requested page plus one row, which shows whether there is a next page.

    Raises:
        Problem: The limit is not a number from 1 to 500.
        MalformedId: The cursor is not an ID of these kinds.
    """
    limit, before = limit_of(request), request.query.get("before")
    if before is not None:
        parse_id_of(before, kinds)
    return Page(limit=limit + 1, before=before)


def limit_of(request: HttpRequest) -> int:
    """The requested length of a page.

    Raises:
        Problem: It is not a number from 1 to 500.
    """
    text = request.query.get("limit", str(USUAL_LIMIT))
    limit = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
    if not 1 <= limit <= LARGEST_LIMIT:
        raise bad_request(f"limit={excerpt(text)} is not a number from 1 to {LARGEST_LIMIT}")
    return limit


def number_in(name: str, text: str) -> int:
    """A number that is not negative.

    Raises:
        Problem: It is none.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise bad_request(f"{name} must be a whole number, 0 or more, not {excerpt(text)}")
    return int(text)


def one_of(request: HttpRequest, name: str, choices: Sequence[C]) -> C | None:
    """Read a parameter that has a fixed set of values.

    Raises:
        Problem: It has another value.
    """
    value = request.query.get(name)
    for choice in choices:
        if choice == value:
            return choice
    if value is not None:
        raise bad_request(f"{name}={excerpt(value)} is not one of {', '.join(choices)}")
    return None


def page(rows: Sequence[R], asked: Page, render: Callable[[R], S], shape: Callable[..., View]) -> Response:
    """Render a page of rows, and the cursor of the next page if there is one."""
    shown = rows[: asked.limit - 1]
    following = shown[-1].id if len(rows) == asked.limit else None
    return as_json(shape(items=[render(row) for row in shown], next=following))


def page_by_name(
    rows: Sequence[T],
    limit: int,
    name: Callable[[T], str],
    render: Callable[[T], S],
    shape: Callable[..., View],
) -> Response:
    """The same for rows in the order of their names, of which one more than `limit` was asked for."""
    shown = rows[:limit]
    following = name(shown[-1]) if len(rows) > limit else None
    return as_json(shape(items=[render(row) for row in shown], next=following))
