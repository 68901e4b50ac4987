"""HTTP of a process that has no other, a worker: `/metrics`, `/health/live`, `/health/ready`.

It is served by threads, so that metrics can be had while code blocks the event loop; health is asked
of the loop itself. What it answers is what the service answers at the same paths.
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
"""A loop that doesn't get to a question within this time is blocked."""

Problems: TypeAlias = Callable[[], Mapping[str, str]]
"""What keeps the process from its work, by name; asked on the event loop."""

_Answer: TypeAlias = tuple[HTTPStatus, str, bytes]


@contextmanager
def served(
    registry: CollectorRegistry, problems: Problems, *, port: int, host: str = LOOPBACK
) -> Iterator[int]:
    """Serve metrics and health as long as the block lasts; yields the port. Needs a running event loop.

    Args:
        registry: What `/metrics` tells.
        problems: What `/health/ready` tells.
        port: 0 takes any that is free.
        host: Where to listen. It asks for no token.

    Raises:
        OperatorError: The port can't be had.
    """
    pages = _Pages(registry, problems, asyncio.get_running_loop())
    server_class = _ScrapeServer6 if ":" in host else _ScrapeServer
    try:
        server = make_server(host, port, pages, server_class=server_class, handler_class=_Quiet)
    except OSError as error:
        raise OperatorError(
            f"can't serve metrics on port {port} of {host}: {error.strerror or error}; "
            "choose another with AWAKEABLES_METRICS_PORT, or AWAKEABLES_METRICS_HOST"
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
                answer = _told("live", self._ask(dict))
            case "/health/ready":
                answer = _told("ready", self._ask(self._problems))
            case _:
                answer = HTTPStatus.NOT_FOUND, "text/plain", b"/metrics, /health/live, /health/ready\n"
        status, media_type, content = answer
        headers = [("content-type", media_type), ("content-length", str(len(content)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [content]

    def _ask(self, problems: Problems) -> Mapping[str, str]:
        async def asked() -> Mapping[str, str]:
            return problems()

        question = asyncio.run_coroutine_threadsafe(asked(), self._loop)
        try:
            return question.result(ANSWER_TIMEOUT_S)
        except TimeoutError:
            question.cancel()
            return {"loop": f"the event loop is blocked for more than {ANSWER_TIMEOUT_S:g} s"}


def _told(question: str, problems: Mapping[str, str]) -> _Answer:
    said = {question: not problems} | ({"problems": dict(problems)} if problems else {})
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, "application/json", json.dumps(said).encode()


class _ScrapeServer(ThreadingMixIn, WSGIServer):
    """A thread per request; none of them keeps the process from ending."""

    daemon_threads = True


class _ScrapeServer6(_ScrapeServer):
    address_family = AF_INET6


class _Quiet(WSGIRequestHandler):
    """Logs no requests, and gives a client no longer than this for one."""

    timeout = 10

    def log_message(self, format: str, *args: object) -> None:
        pass
