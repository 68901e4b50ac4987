"""A function as an AWS Lambda handler, behind a function URL, API Gateway or an Application Load Balancer.

Function URLs send events of the payload format 2.0, as HTTP APIs of API Gateway do; its REST APIs send format
1.0; load balancers a format of their own, with `headers` or `multiValueHeaders`, and want the same back.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TypeAlias

from awakeables.handlers.service import App
from awakeables.remote.responder import LIMIT, THREADS, FunctionResponse, Responder, problem, responder_of
from awakeables.remote.signing import HEADER

LambdaHandler: TypeAlias = Callable[[Mapping[str, Any], Any], dict[str, Any]]

MAX_BYTES = 6 * 1024 * 1024
"""What Lambda takes and gives back."""


def lambda_handler(
    app: App,
    *,
    keys: Sequence[str] | None = None,
    unsigned: bool = False,
    limit: timedelta = LIMIT,
    max_bytes: int = MAX_BYTES,
    build: str = "",
    threads: int = THREADS,
) -> LambdaHandler:
    """Serve an app's handlers as an AWS Lambda function, whose handler is what is returned.

    It answers events of a function URL, of API Gateway and of an Application Load Balancer. An action of
    `ctx.run` is executed within the request; nothing goes on after the answer.

    Args:
        app: As of `asgi`.
        keys: As of `asgi`.
        unsigned: As of `asgi`.
        limit: As of `asgi`; less than the time-out of the Lambda function.
        max_bytes: As of `asgi`; 6 MB is Lambda's own limit.
        build: As of `asgi`.
        threads: As of `asgi`.

    Raises:
        DeclarationError: As of `asgi`.
        MissingDependency: As of `asgi`.
    """
    responder = responder_of(
        app, keys=keys, unsigned=unsigned, limit=limit, max_bytes=max_bytes, build=build, threads=threads
    )
    runner = asyncio.Runner()

    def handle(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        response = runner.run(_responded(responder, event))
        answer = _answer(response, event)
        size = len(json.dumps(answer, ensure_ascii=False).encode())  # as the runtime writes it
        return answer if size <= max_bytes else _answer(responder.answer_too_large(size), event)

    weakref.finalize(handle, runner.close)
    return handle


def _answer(response: FunctionResponse, event: Mapping[str, Any]) -> dict[str, Any]:
    """The answer in the form of its event."""
    headers: dict[str, Any] = {"content-type": response.headers["content-type"]}
    name = "headers"
    if "headers" not in event and "multiValueHeaders" in event:
        name, headers = "multiValueHeaders", {key: [value] for key, value in headers.items()}
    return {
        "statusCode": response.status.value,
        "statusDescription": f"{response.status.value} {response.status.phrase}",
        name: headers,
        "isBase64Encoded": False,
        "body": response.content.decode(),
    }


async def _responded(responder: Responder, event: Mapping[str, Any]) -> FunctionResponse:
    method = _method(event)
    if method is None:
        return problem(
            HTTPStatus.BAD_REQUEST,
            "this is no event of a function URL, API Gateway or a load balancer: it has no HTTP method",
        )
    body = event.get("body") or ""
    try:
        content = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()
    except (binascii.Error, ValueError):
        return problem(HTTPStatus.BAD_REQUEST, "the event says that its body is base64, and it is not")
    return await responder.respond(method, _signature(event), content)


def _method(event: Mapping[str, Any]) -> str | None:
    context = event.get("requestContext")
    http = context.get("http") if isinstance(context, Mapping) else None
    method = http.get("method") if isinstance(http, Mapping) else event.get("httpMethod")
    return method if isinstance(method, str) else None


def _signature(event: Mapping[str, Any]) -> str | None:
    """The value of the header, whose name may be as the caller wrote it."""
    for name, value in (event.get("headers") or {}).items():
        if name.lower() == HEADER:
            return str(value)
    for name, values in (event.get("multiValueHeaders") or {}).items():
        if name.lower() == HEADER and values:
            return str(values[0])
    return None
