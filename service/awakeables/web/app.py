"""The HTTP interface: the table of routes, and what applies to every request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import NoReturn

import structlog
from starlette.types import Receive, Scope, Send
from structlog.contextvars import STRUCTLOG_KEY_PREFIX

from awakeables.api import Api
from awakeables.ports import Entropy
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics
from awakeables.web import problems
from awakeables.web.awakeables import AwakeableRoutes
from awakeables.web.bodies import Bodies
from awakeables.web.calls import CallRoutes
from awakeables.web.deadletters import DeadLetterRoutes
from awakeables.web.documents import DocumentRoutes
from awakeables.web.functions import FunctionRoutes
from awakeables.web.guard import Guard
from awakeables.web.health import HealthRoutes
from awakeables.web.instances import InstanceRoutes
from awakeables.web.invocations import InvocationRoutes
from awakeables.web.lists import PAGING, PAGING_BY_NAME
from awakeables.web.metrics import MetricsRoute
from awakeables.web.objects import ObjectRoutes
from awakeables.web.offsets import OffsetRoutes
from awakeables.web.outbox import OutboxRoutes
from awakeables.web.pauses import PauseRoutes
from awakeables.web.problems import ClientGone, Problem
from awakeables.web.request import HttpRequest, Response
from awakeables.web.requestids import REQUEST_ID, RequestIds
from awakeables.web.routing import Routes, Target, method_not_allowed, read_query
from awakeables.web.schedules import ScheduleRoutes
from awakeables.web.settings import WebSettings
from awakeables.web.subscriptions import SubscriptionRoutes
from awakeables.web.tokens import Tokens
from awakeables.web.versions import VersionRoutes
from awakeables.web.waiting import Waiting

__all__ = ["WebApp", "WebSettings", "create_app"]

log = structlog.stdlib.get_logger(__name__)

NOSNIFF = (b"x-content-type-options", b"nosniff")
"""What handlers return may be bytes from outside; a browser must not guess that they are a page."""

NO_ROUTE = ("none", "none")
"""The labels of a request that matches no route: its own method and path could be anything."""

_logged_request_id: ContextVar[str] = ContextVar(f"{STRUCTLOG_KEY_PREFIX}request_id")
"""Appears as `request_id` in every log line of a request, as with `bind_contextvars`, at less cost."""

AWAKEABLE_PATHS = ("/awakeables", "/restate/awakeables", "/restate/a")


def create_app(
    api: Api, *, settings: WebSettings, entropy: Entropy, metrics: Metrics, tokens: Tokens | None = None
) -> WebApp:
    """Make the HTTP interface of an application service.

    Args:
        api: What is served; its engine must be running when requests come.
        settings: Limits, time-outs and host names.
        metrics: Counts requests; `/metrics` exposes it.
        entropy: Makes this process's request IDs unique.
        tokens: Who may use it; None lets everybody in.
    """
    seals = api.app.codec is not None
    guard = Guard(tokens, settings.hosts, exposed=settings.exposed, seals=seals)
    return WebApp(api, settings, guard, RequestIds(entropy), metrics)


class WebApp:
    """The ASGI application."""

    def __init__(
        self, api: Api, settings: WebSettings, guard: Guard, request_ids: RequestIds, metrics: Metrics
    ) -> None:
        self._api = api
        self._metrics = metrics
        self._guard = guard
        self._request_ids = request_ids
        self._waiting = Waiting(api, settings)
        self._retry_after = settings.retry_after_header
        self._bodies = Bodies(settings)
        self._routes = _routes(api, self._waiting, guard, self._bodies, settings, metrics)
        for row in self._routes.rows:
            metrics.serves(row.method, row.path)

    def drain(self) -> None:
        """Refuse calls from now on, and answer waiting ones with 202."""
        self._api.drain()

    def refuse(self, problem: Problem) -> Response:
        """Answer what the server rejects before there is a request."""
        request_id = self._request_ids.new()
        status, headers, body = self._refusal(problem, request_id)
        self._metrics.answered(*NO_ROUTE, status)
        return Response(status, (*headers, NOSNIFF, (REQUEST_ID, request_id.encode())), body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is served here, not {scope['type']}")
        method, headers = scope["method"], dict(scope["headers"])
        request_id = self._request_ids.of(headers)
        _logged_request_id.set(request_id)
        route, request = NO_ROUTE, None
        try:
            targets, names = self._routes.find(scope.get("raw_path") or scope["path"].encode())
            target = targets.get(method)
            if target is None:
                self._refuse_method(method, headers, targets, names)
            route = (method, target.template)
            holder = self._guard.check(method, headers, names, target.scope, own=target.own)
            query = scope["query_string"]
            request = HttpRequest(
                receive,
                scope["headers"],
                headers,
                names,
                query=read_query(query, target.parameters) if query else {},
                holder=holder,
                by=self._guard.anonymous if holder is None else holder.name,
                hides_payloads=self._guard.hides_payloads(holder),
            )
            status, answered, body = await target.route(request)
        except ClientGone:
            return
        except Exception as error:
            if not problems.is_expected(error):
                log.exception(events.REQUEST_FAILED, method=scope["method"], path=scope["path"])
            status, answered, body = self._refusal(error, request_id)
        finally:
            if request is not None and request.held:
                self._bodies.release(request)
        self._metrics.answered(*route, status)
        sent = (*answered, NOSNIFF, (REQUEST_ID, request_id.encode()))
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, error: Exception, request_id: str) -> Response:
        return problems.response_to(error, retry_after=self._retry_after, request_id=request_id)

    def _refuse_method(
        self,
        method: str,
        headers: Mapping[bytes, bytes],
        targets: Mapping[str, Target],
        names: Sequence[str],
    ) -> NoReturn:
        target = next(iter(targets.values()))
        self._guard.check(method, headers, names, target.scope)
        if target.scope == "call":
            self._api.app.handler(names[0], names[-1])  # no such handler: 404, whatever the method
        raise method_not_allowed(method, sorted(targets))


def _routes(  # noqa: PLR0915 - a line per route
    api: Api, waiting: Waiting, guard: Guard, bodies: Bodies, settings: WebSettings, metrics: Metrics
) -> Routes:
    awakeables = AwakeableRoutes(api, waiting, bodies)
    calls = CallRoutes(api, waiting, guard, bodies, settings)
    dead_letters = DeadLetterRoutes(api, waiting)
    health = HealthRoutes(api, waiting, guard, settings)
    invocations = InvocationRoutes(api, waiting, guard, settings)
    metrics_page = MetricsRoute(metrics)
    functions = FunctionRoutes(api)
    instances = InstanceRoutes(api, waiting)
    objects = ObjectRoutes(api, waiting, bodies)
    offsets = OffsetRoutes(api, waiting)
    outbox = OutboxRoutes(api, waiting)
    pauses = PauseRoutes(api, waiting)
    schedules = ScheduleRoutes(api, waiting)
    subscriptions = SubscriptionRoutes(api, waiting)
    versions = VersionRoutes(api, waiting)
    documents = DocumentRoutes(api, guarded=guard.wants_tokens)
    routes = Routes()
    routes.add("POST", "/*/*", calls.call, scope="call")
    routes.add("POST", "/*/*/send", calls.send, scope="call", parameters=("delay",))
    routes.add("POST", "/*/*/*", calls.call, scope="call")
    routes.add("POST", "/*/*/*/send", calls.send, scope="call", parameters=("delay",))
    for path in AWAKEABLE_PATHS:
        routes.add("POST", f"{path}/*/resolve", awakeables.resolve, scope="complete")
        routes.add("POST", f"{path}/*/reject", awakeables.reject, scope="complete")
    routes.add("POST", "/awakeables/*/heartbeat", awakeables.heartbeat, scope="complete")
    routes.add("GET", "/awakeables", awakeables.list, scope="read", parameters=("state", *PAGING))
    routes.add("GET", "/awakeables/*", awakeables.show, scope="read")
    routes.add(
        "GET",
        "/invocations",
        invocations.list,
        scope="read",
        parameters=(
            *("status", "service", "handler", "subscription", "topic", "key", "idempotency_key"),
            *PAGING,
        ),
    )
    routes.add("GET", "/invocations/*", invocations.show, scope="read")
    routes.add("GET", "/invocations/*/journal", invocations.journal, scope="read")
    routes.add("GET", "/invocations/*/output", invocations.output, scope="read", own=True)
    routes.add("GET", "/invocations/*/attach", invocations.attach, scope="read", own=True)
    for deed in (invocations.pause, invocations.resume, invocations.cancel, invocations.kill):
        routes.add("POST", f"/invocations/*/{deed.__name__}", deed, scope="operate")
    routes.add(
        "POST", "/invocations/*/restart", invocations.restart, scope="operate", parameters=("from_entry",)
    )
    routes.add("POST", "/invocations/*/purge", invocations.purge, scope="operate")
    routes.add("GET", "/invocations/*/why", invocations.why, scope="read")
    routes.add("GET", "/objects/*", objects.list, scope="read", parameters=("having", *PAGING_BY_NAME))
    routes.add("GET", "/objects/*/*", objects.show, scope="read")
    routes.add("POST", "/objects/*/*/pause", objects.pause, scope="operate")
    routes.add("POST", "/objects/*/*/resume", objects.resume, scope="operate")
    routes.add("GET", "/objects/*/*/state", objects.state, scope="read", parameters=PAGING_BY_NAME)
    routes.add("PATCH", "/objects/*/*/state", objects.edit, scope="operate")
    routes.add("GET", "/dead-letters", dead_letters.list, scope="read", parameters=PAGING)
    routes.add("GET", "/dead-letters/*", dead_letters.show, scope="read")
    routes.add("POST", "/dead-letters/*/resend", dead_letters.resend, scope="operate")
    routes.add(
        "POST", "/dead-letters/purge", dead_letters.purge, scope="operate", parameters=("older_than", "code")
    )
    routes.add("GET", "/outbox", outbox.list, scope="read", parameters=("state", *PAGING))
    routes.add("GET", "/outbox/*", outbox.show, scope="read")
    routes.add("POST", "/outbox/*/resend", outbox.resend, scope="operate")
    routes.add("GET", "/offsets", offsets.list, scope="read")
    routes.add("POST", "/offsets/*/skip", offsets.skip, scope="operate", parameters=("to",))
    routes.add("GET", "/subscriptions", subscriptions.list, scope="read")
    routes.add("POST", "/subscriptions/*/pause", subscriptions.pause, scope="operate")
    routes.add("POST", "/subscriptions/*/resume", subscriptions.resume, scope="operate")
    routes.add(
        "POST", "/subscriptions/*/seek", subscriptions.seek, scope="operate", parameters=("to", "partition")
    )
    routes.add("GET", "/schedules", schedules.list, scope="read")
    for verb in (schedules.pause, schedules.resume, schedules.trigger):
        routes.add("POST", f"/schedules/*/{verb.__name__}", verb, scope="operate")
    routes.add("GET", "/pauses", pauses.list, scope="read")
    for path in ("/pauses/*", "/pauses/*/*"):
        routes.add("POST", f"{path}/pause", pauses.pause, scope="operate")
        routes.add("POST", f"{path}/resume", pauses.resume, scope="operate")
    routes.add("GET", "/functions", functions.list, scope="read")
    routes.add("POST", "/functions/*/refresh", functions.refresh, scope="operate")
    routes.add("GET", "/instances", instances.list, scope="read")
    routes.add("GET", "/versions", versions.list, scope="read")
    routes.add("GET", "/metrics", metrics_page.show, scope="metrics")
    routes.add("GET", "/openapi.json", documents.openapi, scope="read")
    routes.add("GET", "/asyncapi.json", documents.asyncapi, scope="read")
    routes.add("GET", "/docs", documents.page, scope="read")
    routes.add("GET", "/health/live", health.live, scope=None)
    routes.add("GET", "/health/ready", health.ready, scope=None)
    return routes
