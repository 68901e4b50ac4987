"""How invocations are listed: the names of the queries, which are the same in both dialects."""

from __future__ import annotations

from awakeables.ports import InvocationFilter, ListedStatus

_BY_STATUS: dict[ListedStatus, str] = {
    "running": "list_running",
    "paused": "list_paused",
    "completed": "list_invocations",
}
"""Queries of their own for statuses with few rows, or rows that are not open."""


def listing_query(which: InvocationFilter) -> str:
    """The name of the query whose index has the fewest rows that the filter excludes."""
    if which.status is None:
        return "list_invocations"
    if which.subscription is not None and which.status != "completed":
        return "list_subscribed"
    return _BY_STATUS.get(which.status, "list_open")
