"""Health checks for load balancers and orchestrators: `/health`."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET

from awakeables.api import Api
from awakeables.web import views
from awakeables.web.guard import Guard
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.settings import WebSettings
from awakeables.web.waiting import Waiting

WITHHELD: Final = "details are shown with a token that has the scope `read`, and in the service's log"
"""Details of a problem contain paths and addresses, which callers without a token must not see."""


class HealthRoutes:
    """The routes below `/health`."""

    def __init__(self, api: Api, waiting: Waiting, guard: Guard, settings: WebSettings) -> None:
        self._api = api
        self._guard = guard
        self._waiting = waiting
        self._retry_after = settings.retry_after_header

    async def live(self, _request: HttpRequest) -> Response:
        """The process responds; nothing else is checked."""
        return as_json(views.LiveView())

    async def ready(self, request: HttpRequest) -> Response:
        """The service accepts work: the store is available, and the service is not stopping."""
        readiness = self._api.readiness()
        if not self._guard.shows_details(request):
            readiness = readiness.without_details(WITHHELD)
        degraded = readiness.degraded or UNSET
        if readiness.is_ready:
            return as_json(views.ReadyView(degraded=degraded))
        answer = views.NotReadyView(problems=readiness.problems, degraded=degraded)
        return as_json(answer, status=503, headers=((b"retry-after", self._retry_after),))
