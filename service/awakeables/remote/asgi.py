"""A function as an ASGI app, for any server and platform that runs one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TypeAlias

from awakeables.handlers.remoteservice import MAX_BYTES
from awakeables.handlers.service import App
from awakeables.remote.responder import LIMIT, THREADS, FunctionResponse, Responder, problem, responder_of
from awakeables.remote.signing import HEADER

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_HEADER = HEADER.encode()


def asgi(
    app: App,
    *,
    keys: Sequence[str] | None = None,
    unsigned: bool = False,
    limit: timedelta = LIMIT,
    max_bytes: int = MAX_BYTES,
    build: str = "",
    threads: int = THREADS,
) -> AsgiApp:
    """Serve an app's handlers as a function: for `uvicorn module:name`, or whatever runs ASGI on asyncio.

    It answers under every path. Handlers run as they do in the service: actions of `ctx.run` are executed
    here, and everything that they write is committed by the service. It keeps nothing between requests.

    Args:
        app: Its handlers are run. A `codec` of it is not used: the service seals what it stores.
        keys: The public keys, Ed25519 in PEM, of the services that may invoke it.
        unsigned: Whoever can reach it may invoke it: something in front of it lets only the service through.
        limit: How long the actions of a request may take. One that takes longer has failed: it is executed
            again if it has a `retry`, else its invocation is paused, by name. What takes longer is work for
            an awakeable. Less than the platform's own limit, and than the service's `timeout`.
        max_bytes: The most that a request, or an answer, may have: as much as the platform takes.
        build: The version of the code, for people.
        threads: How many blocking actions run at the same time. Those beyond wait for a thread, within
            `limit`: let it be no less than the services have requests under way (`max_concurrent`).

    Raises:
        DeclarationError: Neither `keys` nor `unsigned` is given, or both; a handler has a topic or a
            schedule; or an argument has another form.
        MissingDependency: There are keys, and the extra `function` is not installed.
    """
    return FunctionApp(
        responder_of(
            app, keys=keys, unsigned=unsigned, limit=limit, max_bytes=max_bytes, build=build, threads=threads
        )
    )


class FunctionApp:
    """A function behind ASGI."""

    def __init__(self, responder: Responder) -> None:
        """Serve the function of this responder."""
        self._responder = responder

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or follow the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            response = await self._response(scope, receive)
            headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
            await send({"type": "http.response.start", "status": response.status.value, "headers": headers})
            await send({"type": "http.response.body", "body": response.content})
        else:
            raise ValueError(f"a function speaks HTTP, not {scope['type']}")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            asked = (await receive())["type"]
            if asked == "lifespan.shutdown":
                self._responder.close()
            await send({"type": f"{asked}.complete"})
            if asked == "lifespan.shutdown":
                return

    async def _response(self, scope: MutableMapping[str, Any], receive: Receive) -> FunctionResponse:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return problem(HTTPStatus.BAD_REQUEST, "the caller went away")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._responder.function.max_bytes:
                return self._responder.too_large()
            if not message.get("more_body", False):
                break
        signature = next(
            (value.decode("latin-1") for name, value in scope["headers"] if name == _HEADER), None
        )
        return await self._responder.respond(scope["method"], signature, b"".join(parts))
