"""For load balancers and orchestrators: `/health`."""

from __future__ import annotations

from starlette.responses import Response

from awakeables.engine.engine import Engine
from awakeables.web import shapes
from awakeables.web.answers import as_json
from awakeables.web.request import Request
from awakeables.web.settings import WebSettings
from awakeables.web.waiting import Waiting


class Health:
    """The routes below `/health`."""

    def __init__(self, engine: Engine, waiting: Waiting, settings: WebSettings) -> None:
        self._engine = engine
        self._waiting = waiting
        self._retry_after = settings.retry_after_header

    async def live(self, _request: Request) -> Response:
        """The process answers; nothing else is asked."""
        return as_json(shapes.Live())

    async def ready(self, _request: Request) -> Response:
        """Work can be taken: the store and the broker are there, and nobody told us to stop."""
        problems = dict(self._engine.problems)
        if self._waiting.draining:
            problems["service"] = "draining"
        elif not self._engine.serving.is_set():
            problems["service"] = "starting"
        if not problems:
            return as_json(shapes.Ready())
        headers = {"retry-after": self._retry_after}
        return as_json(shapes.NotReady(problems=problems), status=503, headers=headers)
