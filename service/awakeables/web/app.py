"""The HTTP interface: the table of routes, and what goes for all of them."""

from __future__ import annotations

from urllib.parse import urlsplit

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from awakeables.engine.engine import Engine
from awakeables.telemetry import events
from awakeables.web import problems
from awakeables.web.awakeables import Awakeables
from awakeables.web.calls import Calls
from awakeables.web.deadletters import DeadLetters
from awakeables.web.health import Health
from awakeables.web.invocations import Invocations
from awakeables.web.lists import PAGING
from awakeables.web.problems import ClientGone, Problem
from awakeables.web.request import Request
from awakeables.web.routing import Routes, method_not_allowed, read_query
from awakeables.web.settings import WebSettings
from awakeables.web.waiting import Waiting

__all__ = ["WebApp", "WebSettings", "create_app"]

log = structlog.stdlib.get_logger(__name__)

AWAKEABLE_PATHS = ("/awakeables", "/restate/awakeables", "/restate/a")


def create_app(engine: Engine, *, settings: WebSettings) -> WebApp:
    """Put the HTTP interface before an engine, which must be running when requests come."""
    return WebApp(engine, settings)


class WebApp:
    """An ASGI application over one engine."""

    def __init__(self, engine: Engine, settings: WebSettings) -> None:
        self._engine = engine
        self._waiting = Waiting(engine, settings)
        self._retry_after = settings.retry_after_header
        self._routes = _routes(engine, self._waiting, settings)

    def drain(self) -> None:
        """Refuse calls from now on; calls that wait are answered 202, now."""
        self._waiting.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is served here, not {scope['type']}")
        try:
            response = await self._answer(scope, receive)
        except ClientGone:
            return
        except Exception as error:
            if not problems.is_expected(error):
                log.exception(events.REQUEST_FAILED, method=scope["method"], path=scope["path"])
            response = problems.answer(error, retry_after=self._retry_after)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        targets, names = self._routes.find(scope.get("raw_path") or scope["path"].encode())
        target = targets.get(scope["method"])
        if target is None:
            raise self._not_allowed(scope["method"], sorted(targets), names)
        query = read_query(scope["query_string"], target.parameters) if scope["query_string"] else {}
        request = Request(scope, receive, names=names, query=query)
        if request.method != "GET":
            _check_origin(request)
        return await target.route(request)

    def _not_allowed(self, method: str, allowed: list[str], names: tuple[str, ...]) -> Problem:
        if len(names) == 2:
            self._engine.app.handler(*names)  # no such handler: 404, whatever the method
        return method_not_allowed(method, allowed)


def _routes(engine: Engine, waiting: Waiting, settings: WebSettings) -> Routes:
    awakeables = Awakeables(engine, waiting, settings)
    calls = Calls(engine, waiting, settings)
    dead_letters = DeadLetters(engine, waiting)
    health = Health(engine, waiting, settings)
    invocations = Invocations(engine, waiting, settings)
    routes = Routes()
    routes.add("POST", "/*/*", calls.call)
    routes.add("POST", "/*/*/send", calls.send, parameters=("delay",))
    for path in AWAKEABLE_PATHS:
        routes.add("POST", f"{path}/*/resolve", awakeables.resolve)
        routes.add("POST", f"{path}/*/reject", awakeables.reject)
    routes.add("GET", "/awakeables", awakeables.list, parameters=("state", *PAGING))
    routes.add("GET", "/awakeables/*", awakeables.show)
    routes.add("GET", "/invocations", invocations.list, parameters=("status", "service", *PAGING))
    routes.add("GET", "/invocations/*", invocations.show)
    routes.add("GET", "/invocations/*/output", invocations.output)
    routes.add("GET", "/invocations/*/attach", invocations.attach)
    routes.add("POST", "/invocations/*/resume", invocations.resume)
    routes.add("GET", "/dead-letters", dead_letters.list, parameters=PAGING)
    routes.add("GET", "/dead-letters/*", dead_letters.show)
    routes.add("GET", "/health/live", health.live)
    routes.add("GET", "/health/ready", health.ready)
    return routes


def _check_origin(request: Request) -> None:
    """Let no web page of another site call or complete anything with its visitor's browser.

    Raises:
        Problem: 403.
    """
    site = request.header(b"sec-fetch-site")
    origin = request.header(b"origin")
    if site is None and origin is None:
        return
    same = site in ("same-origin", "none") if site is not None else _is_host(origin, request.header(b"host"))
    if not same:
        raise Problem(
            403, "cross-site", "The request comes from another site", "a web page sent this request"
        )


def _is_host(origin: str | None, host: str | None) -> bool:
    try:
        return host is not None and urlsplit(origin or "").netloc.lower() == host.lower()
    except ValueError:
        return False
