"""A function's answers over HTTP, however requests come to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import timedelta
from http import HTTPStatus
from typing import NamedTuple

from awakeables.errors import DeclarationError
from awakeables.handlers.service import App
from awakeables.ports import Clock, Entropy
from awakeables.remote.function import Function, RequestRefused
from awakeables.remote.signing import SignatureRefused, Verifier


class FunctionResponse(NamedTuple):
    """What is answered; header names are in lower case."""

    status: HTTPStatus
    headers: dict[str, str]
    content: bytes


class Responder:
    """Answers requests to one function, of those who may invoke it."""

    def __init__(  # noqa: PLR0913 - keyword-only
        self,
        app: App,
        *,
        keys: Sequence[str] | None,
        unsigned: bool,
        clock: Clock,
        entropy: Entropy,
        limit: timedelta,
        max_bytes: int,
        build: str,
        executor: Executor,
    ) -> None:
        """Prepare to answer; the arguments are those of `asgi` and of `Function`."""
        if unsigned == (keys is not None):
            raise DeclarationError(
                "say who may invoke this function: keys=[…], the public keys of services, or unsigned=True "
                "if something in front of it lets only the service through"
            )
        self._verifier = None if keys is None else Verifier(keys)
        self._clock = clock
        self._function = Function(
            app,
            clock=clock,
            entropy=entropy,
            limit=limit,
            max_bytes=max_bytes,
            build=build,
            executor=executor,
        )
        self.max_bytes = max_bytes
        """The most that a body may have."""
        self.description = self._function.description
        """What the function has, as JSON."""

    def close(self) -> None:
        """Release its threads."""
        self._function.close()

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
        if len(body) > self.max_bytes:
            return self.too_large()
        if self._verifier is not None:
            try:
                self._verifier.check(signature, method, body, now_s=self._clock.now_ms() / 1000)
            except SignatureRefused as refusal:
                return problem(HTTPStatus.UNAUTHORIZED, str(refusal))
        if method == "GET":
            return _response(HTTPStatus.OK, self._function.description)
        try:
            return _response(HTTPStatus.OK, await self._function.advance(body))
        except RequestRefused as refusal:
            return problem(HTTPStatus.BAD_REQUEST, str(refusal))

    def answer_too_large(self, size: int) -> FunctionResponse:
        """The answer instead of one that the platform would not take: the invocation is parked."""
        return _response(HTTPStatus.OK, self._function.too_large(size))

    def too_large(self) -> FunctionResponse:
        """The answer to a request whose body is too large."""
        detail = f"a request may have {self.max_bytes:,} bytes (max_bytes=)"
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def check_servable(app: App) -> None:
    """Return if nothing of an app would be lost where only its handlers are served.

    Raises:
        DeclarationError: A handler has a topic or a schedule.
    """
    for handler in (each for service in app.services.values() for each in service.all_handlers()):
        if handler.subscription is not None or handler.schedules:
            raise DeclarationError(
                f"handler {handler.service}/{handler.name}: a function has no topic= and no schedule=; give "
                "them to a handler of the service, which calls this one"
            )


def problem(status: HTTPStatus, detail: str) -> FunctionResponse:
    """A problem document (RFC 9457)."""
    content = json.dumps({"title": status.phrase, "status": status.value, "detail": detail}).encode()
    return _response(status, content, kind="application/problem+json")


def _response(status: HTTPStatus, content: bytes, *, kind: str = "application/json") -> FunctionResponse:
    return FunctionResponse(status, {"content-type": kind, "content-length": str(len(content))}, content)
