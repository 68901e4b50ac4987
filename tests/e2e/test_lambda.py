"""A function under AWS' own runtime for Python, in a process of its own: a service invokes it by HTTP."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from awakeables import App, RemoteService
from awakeables.core.ids import Ids
from awakeables.core.journal import Input
from awakeables.core.outcomes import Resolution
from awakeables.handlers.attempt import Finished, News, Origin, Progress
from awakeables.handlers.execution import World
from awakeables.remote.attempts import RemoteAttempts
from awakeables.remote.client import FunctionClient
from awakeables.remote.functions import Functions
from awakeables.remote.signing import Signer
from awakeables.testing.loop import InlineExecutor
from awakeables.world import SystemClock, SystemEntropy
from support.functions import PRIVATE, PUBLIC, ThroughHttpx

pytest.importorskip("awslambdaric", reason="AWS' runtime is a wheel for Linux only")

CODE = """
import os
from awakeables import App, Context, Service
from awakeables.remote import lambda_handler

orders = Service("orders")

@orders.handler()
async def double(ctx: Context, number: int) -> int:
    return await ctx.run("double", lambda: 2 * number)

handler = lambda_handler(App("orders", services=[orders]), keys=[os.environ["ORDERS_KEY"]])
"""

NEXT = "/2018-06-01/runtime/invocation/next"


class Platform:
    """Lambda's runtime API on loopback, and the front door that makes events of requests."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.answers: dict[str, queue.Queue[Any]] = {}
        self.invocations = 0
        platform = self

        class Api(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                assert self.path == NEXT
                request_id, event = platform.events.get()
                body = json.dumps(event).encode()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", request_id)
                self.send_header("Lambda-Runtime-Deadline-Ms", "1900000000000")
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu:1:function:f")
                self.send_header("Content-Type", "application/json")  # without it the runtime crashes
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                request_id, _, what = self.path.removeprefix("/2018-06-01/runtime/invocation/").partition("/")
                platform.answers[request_id].put((what, json.loads(content)))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """What a function URL does with a request; the caller's loop may wait for it."""
        self.invocations += 1
        request_id = f"request-{self.invocations}"
        self.answers[request_id] = queue.Queue()
        event = {
            "version": "2.0",
            "rawPath": request.url.path,
            "headers": dict(request.headers),
            "requestContext": {"http": {"method": request.method}},
            "body": request.content.decode(),
            "isBase64Encoded": False,
        }
        self.events.put((request_id, event))
        what, answer = self.answers[request_id].get(timeout=60)
        assert what == "response", answer
        return httpx.Response(answer["statusCode"], headers=answer["headers"], content=answer["body"])


@contextmanager
def runtime(platform: Platform, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "lambda_function.py").write_text(CODE)
    environment = os.environ | {
        "AWS_LAMBDA_RUNTIME_API": platform.address,
        "AWS_LAMBDA_FUNCTION_NAME": "f",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_LAMBDA_LOG_GROUP_NAME": "g",
        "AWS_LAMBDA_LOG_STREAM_NAME": "s",
        "LAMBDA_TASK_ROOT": str(folder),
        "ORDERS_KEY": PUBLIC,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "awslambdaric", "lambda_function.handler"], cwd=folder, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_service_invokes_a_function_under_the_runtime_of_lambda(tmp_path: Path) -> None:
    platform = Platform()
    with platform.running(), runtime(platform, tmp_path) as process:
        service = RemoteService("orders", url="https://x.lambda-url.eu-central-1.on.aws/")
        app, clock = App("shop", services=[service]), SystemClock()
        functions = Functions(
            app, FunctionClient(clock, ThroughHttpx(httpx.MockTransport(platform)), Signer(PRIVATE))
        )
        await functions.learn_all()
        assert app.handler("orders", "double").accept(b"21") == b"21"
        world = World(clock=clock, ids=Ids(clock.now_ms, SystemEntropy().bytes), app="shop", reply_to="r")
        attempts = RemoteAttempts(functions, app, world, InlineExecutor(), lambda *_: None)
        for number in range(3):  # one process answers them all
            value = Resolution.of_json(str(number).encode()).value
            given = Input(service="orders", handler="double", seed="1", at_ms=1, value=value)
            origin = Origin(invocation_id="inv_1", service="orders", handler="double")
            attempt = attempts.open(origin, [given], lambda: None)
            ended, durable = None, 1
            while ended is None:
                progress = attempt.advance(News(now_ms=clock.now_ms(), durable=durable))
                assert not isinstance(progress, Progress)
                told = await progress
                ended, durable = told.ended, durable + len(told.entries)
            assert ended == Finished(result=Resolution.of_json(str(2 * number).encode()))
        assert process.poll() is None
        await attempts.close()
        await functions.close()
