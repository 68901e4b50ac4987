"""Show, pause, resume and trigger schedules: `/schedules`."""

from __future__ import annotations

from awakeables.api import Api
from awakeables.web import render, views
from awakeables.web.audit import audited
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting


class ScheduleRoutes:
    """The routes below `/schedules`."""

    def __init__(self, api: Api, waiting: Waiting) -> None:
        self._api = api
        self._waiting = waiting

    async def list(self, _request: HttpRequest) -> Response:
        rows = await self._waiting.store(self._api.schedules())
        return as_json(views.SchedulesView(items=[render.schedule(row) for row in rows]))

    async def pause(self, request: HttpRequest) -> Response:
        """Begin nothing for its ticks until it is resumed."""
        [name] = request.names
        with audited(request, "pause", schedule=name):
            row = await self._waiting.store(
                self._api.pause_schedule(name),
                doubt="the schedule may or may not have been paused; it is safe to repeat the request",
            )
        return as_json(render.schedule(row))

    async def resume(self, request: HttpRequest) -> Response:
        [name] = request.names
        with audited(request, "resume", schedule=name):
            row = await self._waiting.store(
                self._api.resume_schedule(name),
                doubt="the schedule may or may not have been resumed; it is safe to repeat the request",
            )
        return as_json(render.schedule(row))

    async def trigger(self, request: HttpRequest) -> Response:
        """Begin its handler now."""
        [name] = request.names
        with audited(request, "trigger", schedule=name):
            invocation_id = await self._waiting.store(
                self._api.trigger_schedule(name, by=request.by),
                doubt="it may or may not have begun; look at the schedule's last invocation",
            )
        return as_json(views.TriggeredView(invocation_id=invocation_id), status=202)
