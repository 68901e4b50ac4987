"""Show the instances that share the store: `/instances`."""

from __future__ import annotations

from awakeables.api import Api
from awakeables.web import render, views
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting


class InstanceRoutes:
    """The route `/instances`."""

    def __init__(self, api: Api, waiting: Waiting) -> None:
        self._api = api
        self._waiting = waiting

    async def list(self, _request: HttpRequest) -> Response:
        rows = await self._waiting.store(self._api.instances())
        return as_json(views.InstancesView(items=[render.instance(row) for row in rows]))
