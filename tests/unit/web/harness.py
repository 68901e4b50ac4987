"""An engine with the HTTP interface before it, in one loop, with a store that can go down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, field_validator
from pydantic.alias_generators import to_camel

from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect
from awakeables.core.rows import effect_row, refused
from awakeables.errors import TerminalError
from awakeables.handlers.context import Context
from awakeables.handlers.objectcontext import ObjectContext, SharedContext
from awakeables.handlers.schedule import Schedule
from awakeables.handlers.service import App, Service, VirtualObject, Workflow
from awakeables.ports import PayloadCodec
from awakeables.testing.bench import Bench, Process, quick
from awakeables.web.app import WebApp, WebSettings
from support.web import new_web_app

RETENTION_MS = 86_400_000
MAX_BODY_BYTES = 1000


class Order(BaseModel):
    id: str
    n: int = 1

    @field_validator("id")
    @classmethod
    def short(cls, value: str) -> str:
        if len(value) > 10:
            raise ValueError("an order's id has at most 10 characters")
        return value


class Parcel(BaseModel):
    weight: int


class Upper:
    """A user-defined serde."""

    def dumps(self, value: str) -> bytes:
        return value.upper().encode()

    def loads(self, content: bytes) -> str:
        return content.decode().lower()


orders = Service("orders")


@orders.handler()
async def echo(ctx: Context, order: Order) -> Order:
    return order


@orders.handler()
async def anything(ctx: Context, value: Any) -> Any:
    return value


@orders.handler()
async def greet(ctx: Context) -> str:
    return "hello"


@orders.handler(private=True)
async def hidden(ctx: Context) -> str:
    return "found"


@orders.handler()
async def calls_hidden(ctx: Context) -> str:
    return await ctx.call(hidden)


class Person(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    first_name: str


@orders.handler()
async def person(ctx: Context) -> Person:
    return Person.model_validate({"firstName": "Ann"})


@orders.handler()
async def page(ctx: Context, limit: int = 10) -> int:
    return limit


@orders.handler()
async def needs(ctx: Context, limit: int) -> int:
    return limit


@orders.handler()
async def maybe(ctx: Context, limit: int | None) -> int | None:
    return limit


@orders.handler()
async def wrong(ctx: Context) -> int:
    return "abc"  # type: ignore[return-value]


@orders.handler()
async def copy(ctx: Context, content: bytes) -> bytes:
    return content


@orders.handler()
async def headers(ctx: Context) -> dict[str, str]:
    return dict(ctx.request.headers)


@orders.handler()
async def fail(ctx: Context, code: int) -> None:
    raise TerminalError("out of stock", code=code, details={"sku": "x", "exact": 2**64})


@orders.handler()
async def crash(ctx: Context) -> None:
    raise RuntimeError("the secret is 42")


@orders.handler()
async def misuse(ctx: Context) -> None:
    ctx.awakeable(timeout=timedelta(0))


@orders.handler()
async def misuse_later(ctx: Context) -> None:
    await ctx.sleep(timedelta(seconds=5))
    ctx.awakeable(timeout=timedelta(0))


@orders.handler()
async def wait(ctx: Context) -> Any:
    return await ctx.awakeable()


@orders.handler()
async def wait_parcel(ctx: Context) -> Parcel:
    return await ctx.awakeable(Parcel, timeout=timedelta(hours=4))


@orders.handler()
async def watched(ctx: Context) -> Any:
    return await ctx.awakeable(heartbeat_timeout=timedelta(seconds=30))


@orders.handler()
async def wait_bytes(ctx: Context) -> bytes:
    return await ctx.awakeable(bytes)


@orders.handler()
async def wait_custom(ctx: Context) -> str:
    return await ctx.awakeable(serde=Upper())


carts = VirtualObject("carts", max_queue=3)
ITEMS = carts.state("items", list[str], default=list)
TOTAL = carts.state("total", int)
PHOTO = carts.state("photo", bytes)


@carts.handler()
async def add(ctx: ObjectContext, item: str) -> list[str]:
    have = [*await ctx.get(ITEMS), item]
    ctx.set(ITEMS, have)
    return [ctx.key, *have]


@carts.handler()
async def checkout(ctx: ObjectContext) -> Parcel:
    return await ctx.awakeable(Parcel, timeout=timedelta(hours=4))


@carts.handler()
async def draw(ctx: ObjectContext, photo: bytes) -> None:
    ctx.set(PHOTO, photo)


@carts.handler()
async def fail_at(ctx: ObjectContext) -> None:
    raise ValueError("no such cart")


@carts.handler(private=True)
async def hidden_add(ctx: ObjectContext) -> None: ...


@carts.shared()
async def size(ctx: SharedContext) -> int:
    return len(await ctx.get(ITEMS))


@orders.handler()
async def fill_cart(ctx: Context, key: str) -> list[str]:
    return await ctx.call(add, "x", key=key)


@orders.handler(topic="counts")
async def count(ctx: Context, value: int) -> int:
    return await ctx.awakeable(int)


@orders.handler(schedule=Schedule("0 6 1 1 *", timezone="Europe/Berlin", overlap="queue"))
async def yearly(ctx: Context) -> int:
    return await ctx.awakeable(int)


signups = Workflow("signups")
VERIFIED = signups.promise("verified", bool)


@signups.run()
async def signup(ctx: ObjectContext, email: str) -> bool:
    return await ctx.promise(VERIFIED)


@signups.handler()
async def clicked(ctx: SharedContext) -> str:
    return (await ctx.promise(VERIFIED).resolve(True)).kind


class Web:
    """One process of the shop behind its HTTP interface, and a client of it."""

    def __init__(self, bench: Bench, process: Process, app: WebApp, client: httpx.AsyncClient) -> None:
        self.bench = bench
        self.store = bench.store
        self.offsets = bench.offsets
        self.broker = bench.broker
        self.process = process
        self.engine = process.engine
        self.api = process.api
        self.app = app
        self.client = client

    @property
    def published(self) -> list[Effect]:
        return self.broker.published

    @property
    def waiters(self) -> int:
        """How many futures wait for invocations."""
        return sum(map(len, self.engine.waiters.waiting.values()))

    async def begin(self, handler: str, content: bytes = b"null") -> str:
        return await self.bench.begin(self.process, handler, content)

    async def awakeable_of(self, handler: str) -> str:
        """Begin a handler that waits; the ID of what it waits for, its row committed."""
        return (await self.bench.awakeable(await self.begin(handler))).id

    def add_dead_letter(self, **fields: Any) -> str:
        return add_dead_letter(self.bench, self.process, **fields)

    def add_refused(self, **fields: Any) -> str:
        return add_refused(self.bench, self.process, **fields)


def add_dead_letter(bench: Bench, process: Process, **fields: Any) -> str:
    letter = DeadLetter(
        id=process.api.new_id("dlq"),
        topic="shop.completions",
        partition=0,
        timestamp_ms=0,
        reason="no JSON",
        at_ms=bench.clock.now_ms(),
        **{"code": "unreadable"} | fields,
    )
    bench.store.tables.dead_letters[letter.id] = letter
    bench.store.tables.sources[letter.source] = letter.id
    return letter.id


def add_refused(bench: Bench, process: Process, **fields: Any) -> str:
    """A record in the outbox that Kafka has refused; nobody's, unless `stream` says whose."""
    event_id = process.api.new_id("evt")
    usual = {"event_id": event_id, "stream": event_id, "topic": "invoices", "key": None, "value": None}
    usual["kind"] = "event" if "stream" in fields else "dead-letter"
    effect = Effect(created_ms=bench.clock.now_ms(), **usual | fields)
    row = refused(effect_row(effect, process.engine.member.id, 0), "too large")
    bench.store.tables.effects[effect.event_id] = row
    return effect.event_id


@asynccontextmanager
async def serving(
    settings: WebSettings | None = None, tokens: Path | None = None, codec: PayloadCodec | None = None
) -> AsyncIterator[Web]:
    bench = Bench(retention=timedelta(milliseconds=RETENTION_MS))
    app = App("shop", services=[orders, carts, signups], codec=codec)
    async with bench.running(app, quick(linger=timedelta(milliseconds=50)), executor=None) as process:
        web = new_web_app(process, settings or WebSettings(max_body_bytes=MAX_BODY_BYTES), tokens=tokens)
        transport = httpx.ASGITransport(web)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
            yield Web(bench, process, web, client)


class Exchange:
    """One request, by hand: for what httpx would not send, and for clients that go away."""

    def __init__(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        chunks: Sequence[bytes] = (),
        pause_before: int | None = None,
    ) -> None:
        """Prepare a request; its body stops before the chunk `pause_before` until `go_on` is set."""
        raw_path, _, query = path.partition("?")
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": raw_path,
            "raw_path": raw_path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        self._chunks = list(chunks) or [b""]
        self._pause_before = pause_before
        self._gone = asyncio.Event()
        self.go_on = asyncio.Event()
        self.read = 0
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""

    def leave(self) -> None:
        """The client closes the connection."""
        self._gone.set()
        self.go_on.set()

    async def receive(self) -> dict[str, Any]:
        if self.read == self._pause_before:
            await self.go_on.wait()
        if self.read < len(self._chunks) and not self._gone.is_set():
            self.read += 1
            chunk = self._chunks[self.read - 1]
            return {"type": "http.request", "body": chunk, "more_body": self.read < len(self._chunks)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")

    def run(self, app: WebApp) -> Awaitable[None]:
        return app(self.scope, self.receive, self.send)
