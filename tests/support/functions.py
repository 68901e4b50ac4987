"""Functions for tests: an app's handlers behind HTTP, in this process or behind a real socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from awakeables import App, RemoteService
from awakeables.core.journal import Entry
from awakeables.handlers.attempt import Attempt, Origin, Ready
from awakeables.handlers.execution import World
from awakeables.handlers.local import RunFailed
from awakeables.handlers.remoteservice import MAX_BYTES
from awakeables.handlers.service import HandlerGroup, Service
from awakeables.ports import Clock
from awakeables.remote.asgi import AsgiApp, FunctionApp
from awakeables.remote.attempts import RemoteAttempts
from awakeables.remote.client import FunctionClient
from awakeables.remote.described import learn
from awakeables.remote.function import Function
from awakeables.remote.functions import Functions
from awakeables.remote.responder import LIMIT, Responder
from awakeables.remote.signing import Signer, Verifier
from awakeables.remote.transport import AiohttpTransport, TransportFailed
from awakeables.testing.loop import SeededEntropy
from awakeables.world import SystemClock, SystemEntropy

IN_PROCESS = "http://function.test"


def key_pair() -> tuple[bytes, str]:
    """A new private key, and its public key; both in PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public.decode()


PRIVATE, PUBLIC = key_pair()


def function_of(app: App, **options: Any) -> FunctionApp:
    """A function that accepts what `PRIVATE` has signed within minutes."""
    return FunctionApp(responder_of(app, **options))


def responder_of(app: App, *, clock: Clock | None = None, **options: Any) -> Responder:
    """What answers for such a function."""
    given: dict[str, Any] = {
        "entropy": SystemEntropy(),
        "limit": LIMIT,
        "max_bytes": MAX_BYTES,
        "build": "",
        "executor": ThreadPoolExecutor(4),
    }
    machines = clock or SystemClock()
    return Responder(Function(app, clock=machines, **given | options), Verifier([PUBLIC]), machines)


def remote(app: App, *, url: str = IN_PROCESS, **options: Any) -> App:
    """An app whose services are those of another app, elsewhere; what is no service stays here."""
    services: list[HandlerGroup] = [
        RemoteService(each.name, url=url, **options) if isinstance(each, Service) else each
        for each in app.services.values()
    ]
    return App(app.name, services=services, codec=app.codec)


class ThroughHttpx:
    """Requests that don't leave this process: to an ASGI app, or to what a test answers."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        """Send by this transport of httpx."""
        self._http = httpx.AsyncClient(transport=transport, timeout=None)

    async def send(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        try:
            response = await self._http.request(method, url, headers=headers, content=body)
        except httpx.HTTPError as error:
            raise TransportFailed(str(error)) from error
        return response.status_code, response.content

    async def close(self) -> None:
        await self._http.aclose()


def client_of(served: AsgiApp | None = None, clock: Clock | None = None) -> FunctionClient:
    """A client that signs with `PRIVATE`; of a function in this process, or over sockets."""
    transport = AiohttpTransport() if served is None else ThroughHttpx(httpx.ASGITransport(served))
    return FunctionClient(clock or SystemClock(), transport, Signer(PRIVATE))


class ServedFunctions:
    """A server on a loopback port, in a thread: what it serves can be changed at any time."""

    def __init__(self) -> None:
        """Begin with no function."""
        self.served: AsgiApp | None = None
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        assert self.served is not None
        await self.served(scope, receive, send)

    @contextmanager
    def running(self) -> Iterator[ServedFunctions]:
        """Serve until the block ends."""
        config = uvicorn.Config(
            self, host="127.0.0.1", port=0, lifespan="off", log_level="error", loop="asyncio"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
        thread.start()
        try:
            while not server.started:
                thread.join(0.01)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            yield self
        finally:
            server.should_exit = True
            thread.join()


def over_http(made: list[Functions], served: ServedFunctions | None = None) -> Callable[..., RemoteAttempts]:
    """What makes the attempts of an app whose services run elsewhere.

    Args:
        made: Gets what is to be closed.
        served: The server behind whose socket they run; None: they run in this process.
    """

    def make(app: App, world: World, executor: Executor, run_failed: RunFailed = print) -> RemoteAttempts:
        responder = responder_of(app, clock=world.clock)
        function = FunctionApp(responder)
        if served is not None:
            served.served = function
        elsewhere = remote(app) if served is None else remote(app, url=served.url)
        for service in elsewhere.services.values():
            if isinstance(service, RemoteService):
                learn(service, responder.function.description)
        client = client_of(function if served is None else None, world.clock)
        functions = Functions(elsewhere, client)
        made.append(functions)
        return RemoteAttempts(functions, elsewhere, world, executor, run_failed)

    return make


class EverythingElsewhere(RemoteAttempts):
    """All handlers of an app, also those of objects and workflows, run behind HTTP in this process."""

    def __init__(self, app: App, world: World, executor: Executor, run_failed: RunFailed) -> None:
        """As `LocalAttempts`."""
        function = function_of(app, clock=world.clock, executor=executor, entropy=SeededEntropy(0))
        self._service = RemoteService("everything", url=IN_PROCESS)
        functions = Functions(App(app.name, services=[self._service]), client_of(function, world.clock))
        super().__init__(functions, app, world, executor, run_failed)

    def open(self, origin: Origin, history: Sequence[Entry], ready: Ready) -> Attempt:
        """As the port says."""
        return self.elsewhere(self._service, origin, history)
