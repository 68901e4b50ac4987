"""The commands, run in this process against a service that only repeats what it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

import pytest
from typer.testing import CliRunner, Result

from awakeables.cli.main import cli


@dataclass
class StubService:
    """Answers by method and path, and remembers what it was asked."""

    url: str = ""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def will_answer(self, what: str, document: object, status: int = 200) -> None:
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.answers[what] = (status, content)


class Run(Protocol):
    def __call__(self, *words: str, said: str | None = None, **environment: str) -> Result: ...


@pytest.fixture
def stub() -> Iterator[StubService]:
    service = StubService()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            what = f"{self.command} {self.path}"
            service.asked.append(what)
            service.credentials.append(self.headers["authorization"])
            service.bodies.append(self.rfile.read(int(self.headers["content-length"] or 0)))
            missing = (404, b'{"title": "There is no such thing here", "detail": "nothing at all"}')
            status, content = service.answers.get(what, missing)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PATCH = do_GET  # noqa: N815 - http.server names them

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield service
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(stub: StubService) -> Run:
    def invoke(*words: str, said: str | None = None, **environment: str) -> Result:
        ours = {"AWAKEABLES_URL": stub.url, "NO_COLOR": "1", "COLUMNS": ""}
        return CliRunner().invoke(cli, [*words], input=said, env=ours | environment)

    return invoke
