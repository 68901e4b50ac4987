"""Show positions in the completions topic, and skip unreadable batches: `/offsets`."""

from __future__ import annotations

from awakeables.api import Api
from awakeables.web import render, views
from awakeables.web.audit import audited
from awakeables.web.lists import number_in
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting


class OffsetRoutes:
    """The routes below `/offsets`."""

    def __init__(self, api: Api, waiting: Waiting) -> None:
        self._api = api
        self._waiting = waiting

    async def list(self, _request: HttpRequest) -> Response:
        rows = await self._waiting.store(self._api.partitions())
        return as_json(views.PartitionsView(items=[render.reading(row) for row in rows]))

    async def skip(self, request: HttpRequest) -> Response:
        """Move past the batch that the partition is stuck at, or to the offset in the query."""
        [partition] = request.names
        to = request.query.get("to")
        number, offset = number_in("the partition", partition), None if to is None else number_in("to", to)
        with audited(request, "skip", partition=number, to=offset):
            row = await self._waiting.store(
                self._api.skip(number, offset, by=request.by),
                doubt="the batch may or may not have been skipped; check the partition's offsets",
            )
        return as_json(render.reading(row))
