"""HTTP for a worker, which has no other: `/metrics`, `/health/live`, `/health/ready`.

Threads serve it, so that metrics are available while code blocks the event loop; health is checked on the
loop itself. The responses are those of the service at the same paths.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from socket import AF_INET6
from socketserver import ThreadingMixIn
from typing import Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry

from awakeables.errors import OperatorError
from awakeables.telemetry.metrics import exposition

LOOPBACK = "127.0.0.1"

ANSWER_TIMEOUT_S = 2.0
"""A loop that doesn't run a health check within this time is blocked."""

Problems: TypeAlias = Callable[[], Mapping[str, str]]
"""Why the process can't work, by name; called on the event loop."""

_Answer: TypeAlias = tuple[HTTPStatus, str, bytes]


@contextmanager
def served(
    registry: CollectorRegistry, problems: Problems, *, port: int, host: str = LOOPBACK
) -> Iterator[int]:
    """Serve metrics and health within the block; yields the port. Needs a running event loop.

    Args:
        registry: Exposed at `/metrics`.
        problems: Exposed at `/health/ready`.
        port: The port; 0 picks a free one.
        host: The address to listen on. No token is required.

    Raises:
        OperatorError: The port can't be bound.
    """
    pages = _Pages(registry, problems, asyncio.get_running_loop())
    server_class = _ScrapeServer6 if ":" in host else _ScrapeServer
    try:
        server = make_server(host, port, pages, server_class=server_class, handler_class=_Quiet)
    except OSError as error:
        raise OperatorError(
            f"can't serve metrics on port {port} of {host}: {error.strerror or error}; "
            "choose another with AWAKEABLES_METRICS_PORT or AWAKEABLES_METRICS_HOST"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Pages:
    """The WSGI application."""

    def __init__(
        self, registry: CollectorRegistry, problems: Problems, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._registry = registry
        self._problems = problems
        self._loop = loop

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                content, media_type = exposition(self._registry, environ.get("HTTP_ACCEPT", ""))
                answer = HTTPStatus.OK, media_type, content
            case "/health/live":
                answer = _health("live", self._check(dict))
            case "/health/ready":
                answer = _health("ready", self._check(self._problems))
            case _:
                answer = HTTPStatus.NOT_FOUND, "text/plain", b"/metrics, /health/live, /health/ready\n"
        status, media_type, content = answer
        headers = [("content-type", media_type), ("content-length", str(len(content)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [content]

    def _check(self, problems: Problems) -> Mapping[str, str]:
        async def on_loop() -> Mapping[str, str]:
            return problems()

        check = asyncio.run_coroutine_threadsafe(on_loop(), self._loop)
        try:
            return check.result(ANSWER_TIMEOUT_S)
        except TimeoutError:
            check.cancel()
            return {"loop": f"the event loop has been blocked for more than {ANSWER_TIMEOUT_S:g} s"}


def _health(question: str, problems: Mapping[str, str]) -> _Answer:
    said = {question: not problems} | ({"problems": dict(problems)} if problems else {})
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, "application/json", json.dumps(said).encode()


class _ScrapeServer(ThreadingMixIn, WSGIServer):
    """Serves each request in a daemon thread, which doesn't keep the process from exiting."""

    daemon_threads = True


class _ScrapeServer6(_ScrapeServer):
    address_family = AF_INET6


class _Quiet(WSGIRequestHandler):
    """Logs no requests, and limits the time for each."""

    timeout = 10

    def log_message(self, format: str, *args: object) -> None:
        pass
