"""Show which versions of the code open invocations have: `/versions`."""

from __future__ import annotations

from awakeables.api import Api
from awakeables.web import render, views
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting


class VersionRoutes:
    """The route `/versions`."""

    def __init__(self, api: Api, waiting: Waiting) -> None:
        self._api = api
        self._waiting = waiting

    async def list(self, _request: HttpRequest) -> Response:
        rows = await self._waiting.store(self._api.versions())
        return as_json(views.VersionsView(items=[render.version_use(row) for row in rows]))
