"""Show the functions of remote services, and read again what they have: `/functions`."""

from __future__ import annotations

from awakeables.api import Api
from awakeables.web import render, views
from awakeables.web.audit import audited
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json


class FunctionRoutes:
    """The routes below `/functions`; the path names a remote service."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def list(self, _request: HttpRequest) -> Response:
        return as_json(views.FunctionsView(items=[render.function(each) for each in self._api.functions()]))

    async def refresh(self, request: HttpRequest) -> Response:
        [service] = request.names
        with audited(request, "refresh", service=service):
            status = await self._api.refresh_function(service)
        return as_json(render.function(status))
