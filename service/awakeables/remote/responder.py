"""A function's answers over HTTP, however requests come to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http import HTTPStatus
from typing import NamedTuple

from awakeables.errors import DeclarationError
from awakeables.handlers.service import App
from awakeables.ports import Clock
from awakeables.remote.function import Function, RequestRefused
from awakeables.remote.signing import SignatureRefused, Verifier
from awakeables.world import SystemClock, SystemEntropy

LIMIT = timedelta(seconds=50)
"""Less than the default `timeout` of a remote service."""

THREADS = 128
"""More than the default `max_concurrent` of a remote service."""


class FunctionResponse(NamedTuple):
    """What is answered; header names are in lower case."""

    status: HTTPStatus
    headers: dict[str, str]
    content: bytes


class Responder:
    """Answers requests to one function, of those who may invoke it.

    Attributes:
        function: What is invoked.
    """

    def __init__(self, function: Function, verifier: Verifier | None, clock: Clock) -> None:
        """Answer for a function, to everybody or to those whose requests are verified."""
        self.function = function
        self._verifier = verifier
        self._clock = clock

    def close(self) -> None:
        """Release its threads."""
        self.function.close()

    async def respond(self, method: str, signature: str | None, body: bytes) -> FunctionResponse:
        """Answer a request.

        Args:
            method: The HTTP method.
            signature: The value of the header `signing.HEADER`; None: there is none.
            body: The whole body.
        """
        if method not in ("GET", "POST"):
            refused = problem(HTTPStatus.METHOD_NOT_ALLOWED, "GET describes this function, POST invokes it")
            refused.headers["allow"] = "GET, POST"
            return refused
        if len(body) > self.function.max_bytes:
            return self.too_large()
        if self._verifier is not None:
            try:
                self._verifier.check(signature, method, body, now_s=self._clock.now_ms() / 1000)
            except SignatureRefused as refusal:
                return problem(HTTPStatus.UNAUTHORIZED, str(refusal))
        if method == "GET":
            return _response(HTTPStatus.OK, self.function.description)
        try:
            return _response(HTTPStatus.OK, await self.function.advance(body))
        except RequestRefused as refusal:
            return problem(HTTPStatus.BAD_REQUEST, str(refusal))

    def answer_too_large(self, size: int) -> FunctionResponse:
        """The answer instead of one that the platform would not take: the invocation is parked."""
        return _response(HTTPStatus.OK, self.function.too_large(size))

    def too_large(self) -> FunctionResponse:
        """The answer to a request whose body is too large."""
        detail = f"a request may have {self.function.max_bytes:,} bytes (max_bytes=)"
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def responder_of(
    app: App,
    *,
    keys: Sequence[str] | None,
    unsigned: bool,
    limit: timedelta,
    max_bytes: int,
    build: str,
    threads: int,
) -> Responder:
    """What answers for an app's handlers on this machine; the arguments and errors are those of `asgi`."""
    if unsigned == (keys is not None):
        raise DeclarationError(
            "say who may invoke this function: keys=[…], the public keys of services, or unsigned=True "
            "if something in front of it lets only the service through"
        )
    for handler in app.all_handlers():
        if handler.subscription is not None or handler.schedules:
            raise DeclarationError(
                f"handler {handler.service}/{handler.name}: a function has no topic= and no schedule=; give "
                "them to a handler of the service, which calls this one"
            )
    clock = SystemClock()
    function = Function(
        app,
        clock=clock,
        entropy=SystemEntropy(),
        limit=limit,
        max_bytes=max_bytes,
        build=build,
        executor=ThreadPoolExecutor(threads, thread_name_prefix="awakeables-run"),
    )
    return Responder(function, None if keys is None else Verifier(keys), clock)


def problem(status: HTTPStatus, detail: str) -> FunctionResponse:
    """A problem document (RFC 9457)."""
    content = json.dumps({"title": status.phrase, "status": status.value, "detail": detail}).encode()
    return _response(status, content, kind="application/problem+json")


def _response(status: HTTPStatus, content: bytes, *, kind: str = "application/json") -> FunctionResponse:
    return FunctionResponse(status, {"content-type": kind, "content-length": str(len(content))}, content)
