"""Calling handlers: `POST /{service}/{handler}`, `POST /{object}/{key}/{handler}`, and each with `…/send`."""

from __future__ import annotations

import hashlib
from datetime import timedelta

from awakeables.api import Api, idempotency_scope
from awakeables.core.commands import Idempotency
from awakeables.core.durations import parse_duration
from awakeables.core.replies import Begun
from awakeables.errors import InvalidInput, NotFound, Overloaded
from awakeables.handlers.invoking import LONGEST_KEY, key_problem
from awakeables.handlers.service import Handler
from awakeables.web import views
from awakeables.web.bodies import Bodies
from awakeables.web.guard import Guard
from awakeables.web.problems import bad_request
from awakeables.web.request import Headers, HttpRequest, Response
from awakeables.web.responses import as_json, ask_later, attached, not_yet, of_result
from awakeables.web.settings import WebSettings
from awakeables.web.waiting import Waiting

NOT_FORWARDED = frozenset(
    name.encode()
    for name in (
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("content-length", "content-encoding", "expect", "idempotency-key", "prefer"),
        *("authorization", "proxy-authorization", "cookie"),
    )
)
"""Headers that concern only this hop or this request, and secrets, which don't belong in the journal."""

IN_DOUBT = "the invocation may or may not have begun; with an Idempotency-Key it is safe to repeat the call"


class CallRoutes:
    """The routes for calling handlers."""

    def __init__(
        self, api: Api, waiting: Waiting, guard: Guard, bodies: Bodies, settings: WebSettings
    ) -> None:
        self._api = api
        self._guard = guard
        self._bodies = bodies
        self._waiting = waiting
        self._retry_after = settings.retry_after_header

    async def call(self, request: HttpRequest) -> Response:
        """Begin an invocation, or attach to the one with this idempotency key, and wait for its result."""
        handler, key = self._target(request)
        body = await self._bodies.read(request)
        headers: Headers = ()
        if b"idempotency-key" in request.headers or handler.kind == "run":
            begun = await self._begin(request, handler, key, body)
            invocation_id, headers = begun.id, attached(begun)
            outcome = await self._waiting.result(request, invocation_id)
        else:
            call = self._api.call(
                handler,
                self._input(handler, request, body),
                key=key,
                headers=_forwarded_headers(request.raw_headers),
                by=None if request.holder is None else request.holder.name,
            )
            if request.held:
                # Once the input is stored the body can go: the result may take a minute.
                call.begun.add_done_callback(lambda _: self._bodies.release(request))
            invocation_id = call.id
            outcome = await self._waiting.call(request, call, doubt=IN_DOUBT)
        if outcome is not None:
            return of_result(invocation_id, outcome, headers)
        row = await self._waiting.store(self._api.invocation(invocation_id))
        return not_yet(row, retry_after=self._retry_after, headers=headers)

    async def send(self, request: HttpRequest) -> Response:
        """Begin an invocation, now or after a delay, without waiting for its result."""
        try:
            delay = parse_duration(request.query["delay"]) if "delay" in request.query else timedelta(0)
        except ValueError as error:
            raise bad_request(f"delay: {error}") from None
        handler, key = self._target(request, "/send")
        begun = await self._begin(request, handler, key, await self._bodies.read(request), delay)
        return as_json(
            views.BegunView(invocation_id=begun.id, created=begun.created),
            status=202,
            headers=(*ask_later(begun.id, self._retry_after), *attached(begun)),
        )

    def _target(self, request: HttpRequest, verb: str = "") -> tuple[Handler, str | None]:
        """The handler, and if it is one of an object the key that it is called for.

        Raises:
            NotFound: There is no such handler, or it has another path; the message names that.
            InvalidInput: The key can't be one.
        """
        if self._api.draining:
            raise Overloaded("the service is stopping; try again")
        service, *keys, name = request.names
        handler = self._api.app.handler(service, name)
        where = f"{service}/{name}"
        if handler.private:
            raise NotFound(f"{where} is private: only other handlers can call it")
        if not handler.keyed:
            if keys:
                raise NotFound(f"{where} is a handler of a service, which has no keys: POST /{where}{verb}")
            return handler, None
        if not keys:
            path = f"/{service}/{{key}}/{name}{verb}"
            raise NotFound(f"{where} is a handler of an object, which is called for a key: POST {path}")
        problem = key_problem(keys[0])
        if problem is not None:
            raise InvalidInput(f"{where}: {problem}")
        return handler, keys[0]

    async def _begin(
        self,
        request: HttpRequest,
        handler: Handler,
        key: str | None,
        body: bytes,
        delay: timedelta = timedelta(0),
    ) -> Begun:
        begin = self._api.begin(
            handler,
            self._input(handler, request, body),
            key=key,
            headers=_forwarded_headers(request.raw_headers),
            idempotency=_idempotency(handler, key, request, body),
            delay=delay,
            by=None if request.holder is None else request.holder.name,
        )
        try:
            with self._waiting.for_store():
                begun = await begin
        except TimeoutError:
            raise self._waiting.no_answer(IN_DOUBT) from None
        self._bodies.release(request)
        if not begun.created and request.holder is not None:
            self._guard.check_key(request, await self._waiting.store(self._api.invocation(begun.id)))
        return begun

    def _input(self, handler: Handler, request: HttpRequest, body: bytes) -> bytes | None:
        """Return the validated body as it is journaled; None if it is absent, so that the default applies.

        Raises:
            InvalidInput: The body does not match the handler's input type.
        """
        if handler.input.kind == "json" and body:
            body = self._bodies.json_of(request, body)
        return handler.accept(body or None)


def _forwarded_headers(raw_headers: Headers) -> dict[str, str]:
    """The caller's headers, for `ctx.request`; repeated headers are joined with commas."""
    headers: dict[str, str] = {}
    for raw_name, value in raw_headers:
        if raw_name not in NOT_FORWARDED:
            name, text = raw_name.decode("latin-1"), value.decode("latin-1")
            headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


def _idempotency(
    handler: Handler, object_key: str | None, request: HttpRequest, body: bytes
) -> Idempotency | None:
    key = request.text(b"idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= LONGEST_KEY:
        raise bad_request(f"an Idempotency-Key has 1 to {LONGEST_KEY} characters")
    scope = idempotency_scope(handler.service, handler.name, object_key)
    return Idempotency(scope=scope, key=key, fingerprint=hashlib.sha256(body).hexdigest())
