"""Show, pause, resume and move subscriptions: `/subscriptions`."""

from __future__ import annotations

from datetime import datetime

from awakeables.api import Api, SeekTo
from awakeables.web import render, views
from awakeables.web.audit import audited
from awakeables.web.lists import number_in
from awakeables.web.problems import bad_request
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting


class SubscriptionRoutes:
    """The routes below `/subscriptions`."""

    def __init__(self, api: Api, waiting: Waiting) -> None:
        self._api = api
        self._waiting = waiting

    async def list(self, _request: HttpRequest) -> Response:
        rows = await self._waiting.store(self._api.subscriptions())
        return as_json(views.SubscriptionsView(items=[render.subscription(row) for row in rows]))

    async def pause(self, request: HttpRequest) -> Response:
        """Begin nothing for its records until it is resumed."""
        [name] = request.names
        with audited(request, "pause", subscription=name):
            row = await self._waiting.store(
                self._api.pause_subscription(name),
                doubt="the subscription may or may not have been paused; it is safe to repeat the request",
            )
        return as_json(render.subscription(row))

    async def resume(self, request: HttpRequest) -> Response:
        [name] = request.names
        with audited(request, "resume", subscription=name):
            row = await self._waiting.store(
                self._api.resume_subscription(name),
                doubt="the subscription may or may not have been resumed; it is safe to repeat the request",
            )
        return as_json(render.subscription(row))

    async def seek(self, request: HttpRequest) -> Response:
        """Move a paused subscription to the place in the query."""
        [name] = request.names
        partition = request.query.get("partition")
        number = None if partition is None else number_in("partition", partition)
        to = _place(request.query.get("to"))
        with audited(request, "seek", subscription=name, partition=number, to=str(to)):
            moves = await self._waiting.store(
                self._api.seek(name, to, partition=number, by=request.by),
                doubt="the subscription may or may not have been moved; look at its partitions",
            )
        return as_json(views.MovesView(items=[render.move(each) for each in moves]))


def _place(text: str | None) -> SeekTo:
    """Where to go on.

    Raises:
        Problem: The text says no place.
    """
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    if text is not None and text.isascii() and text.isdecimal():
        return number_in("to", text)
    try:
        instant = datetime.fromisoformat(text or "")
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise bad_request(
            "to: earliest, latest, an offset, or an instant with its time zone, such as 2026-11-30T12:00:00Z"
        )
    return instant
