"""Pause and resume handlers, and whole services: `/pauses`."""

from __future__ import annotations

from awakeables.api import Api
from awakeables.web import render, views
from awakeables.web.audit import audited
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting


class PauseRoutes:
    """The routes below `/pauses`; the path names a service, and perhaps one of its handlers."""

    def __init__(self, api: Api, waiting: Waiting) -> None:
        self._api = api
        self._waiting = waiting

    async def list(self, _request: HttpRequest) -> Response:
        rows = await self._waiting.store(self._api.pauses())
        return as_json(views.PausesView(items=[render.pause(row) for row in rows]))

    async def pause(self, request: HttpRequest) -> Response:
        """Claim nothing of it until it is resumed."""
        service, handler = _names(request)
        with audited(request, "pause", service=service, handler=handler):
            row = await self._waiting.store(
                self._api.pause_handlers(service, handler, by=request.by),
                doubt="it may or may not have been paused; it is safe to repeat the request",
            )
        return as_json(render.pause(row))

    async def resume(self, request: HttpRequest) -> Response:
        service, handler = _names(request)
        with audited(request, "resume", service=service, handler=handler):
            resumed = await self._waiting.store(
                self._api.resume_handlers(service, handler),
                doubt="it may or may not have been resumed; it is safe to repeat the request",
            )
        return as_json(views.ResumedView(resumed=list(resumed)))


def _names(request: HttpRequest) -> tuple[str, str | None]:
    service, *handler = request.names
    return service, handler[0] if handler else None
