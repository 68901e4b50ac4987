"""Whatever is sent to any route that the served OpenAPI tells of: no 500, no hang, no answer but a told one.

`FUZZ_EXAMPLES=500 pytest tests/unit/web/test_fuzz_http.py` looks longer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from awakeables.core.awakeables import Completion, Heartbeat
from awakeables.core.effects import TaskFacts
from awakeables.core.ids import EFFECT_KINDS
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.engine.engine import EngineSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import TerminalError
from awakeables.handlers import local
from awakeables.handlers.context import Context
from awakeables.handlers.objectcontext import ObjectContext, SharedContext
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.service import App, Service, VirtualObject
from awakeables.testing.bench import Bench, Process, until
from awakeables.web.app import WebSettings
from awakeables.web.describing.openapi import openapi
from awakeables.web.server import WebServer
from awakeables.world import SystemClock
from support.effort import FUZZ_EXAMPLES
from support.web import new_web_app
from unit.web.harness import add_dead_letter, add_refused
from unit.web.test_guard import bearer, write_tokens

HANGS_AFTER_S = 10
load_all_checks()
CHECKED = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "unsupported_method",
    ]
)


class Line(BaseModel):
    item: str = Field(min_length=1, max_length=20)
    count: int = Field(ge=1, le=1000)


class Order(BaseModel):
    id: str
    lines: list[Line] = []
    note: str | None = None


shop = Service("shop")


@shop.handler()
async def total(ctx: Context, order: Order) -> int:
    return sum(line.count for line in order.lines)


@shop.handler()
async def echo(ctx: Context, order: Order | None) -> Order | None:
    return order


@shop.handler()
async def anything(ctx: Context, value: Any) -> Any:
    return value


@shop.handler()
async def copy(ctx: Context, content: bytes) -> bytes:
    return content


@shop.handler()
async def refuse(ctx: Context) -> None:
    raise TerminalError("out of stock", code=409, details={"sku": "x"})


@shop.handler()
async def crash(ctx: Context) -> None:
    raise RuntimeError("always")


@shop.handler()
async def wait(ctx: Context) -> Line:
    return await ctx.awakeable(Line)


@shop.handler()
async def wait_for_anything(ctx: Context) -> Any:
    return await ctx.awakeable()


carts = VirtualObject("carts", max_queue=5)
LINES = carts.state("lines", list[Line], default=list)
PHOTO = carts.state("photo", bytes)


@carts.handler()
async def add(ctx: ObjectContext, line: Line) -> int:
    ctx.set(LINES, [*await ctx.get(LINES), line])
    return len(await ctx.get(LINES))


@carts.handler()
async def draw(ctx: ObjectContext, photo: bytes) -> None:
    ctx.set(PHOTO, photo)
    await ctx.awakeable(Line)


@carts.shared()
async def lines(ctx: SharedContext) -> list[Line]:
    return await ctx.get(LINES)


APP = App("shop", services=[shop, carts])
KEYS = ("idle", "held", "full", "paused", "a/b")
PENDING = 30
"""Awakeables that take any answer: enough that some answers are accepted."""


@dataclass
class Target:
    """A service on a port, and what stands in its rows, by the name of the parameter."""

    url: str
    token: dict[str, str]
    known: dict[str, list[str]]


RETRY = RetryPolicy(max_attempts=2, initial_interval=timedelta(milliseconds=1))
SETTINGS = EngineSettings(runner=RunnerSettings(retry=RETRY), horizon=timedelta(0))


async def fill(bench: Bench, process: Process) -> dict[str, list[str]]:
    """Rows in many states: awakeables that wait, resolved, rejected, called off, alive; refused records."""
    api = process.api
    begun = [await api.begin(APP.handler("shop", "wait"), b"null") for _ in range(4)]
    begun.append(await api.begin(APP.handler("shop", "refuse"), b"null"))
    begun.append(await api.begin(APP.handler("shop", "crash"), b"null"))
    begun += [await api.begin(APP.handler("shop", "wait_for_anything"), b"null") for _ in range(PENDING)]
    rows = bench.store.tables.awakeables
    await until(lambda: len(rows) == 4 + PENDING)
    awakeables = list(rows)
    answers: tuple[Resolution | Rejection | Heartbeat, ...] = (
        Resolution.of_json(b'{"item":"x","count":1}'),
        Rejection(reason="no", code=409),
        Heartbeat(),
    )
    for name, body in zip(awakeables, answers, strict=False):
        await api.settle(Completion(awakeable_id=name, body=body, source="http:test"))
    await api.cancel(begun[3].id)
    record = {"source": "t:0:7", "offset": 7, "value": b"\xff", "key": b"k", "headers": (("h", b"\xfe"),)}
    line = b'{"item":"x","count":1}'
    for key in ("idle", "a/b", "paused"):
        await api.result((await api.begin(APP.handler("carts", "add"), line, key=key)).id)
    for key in ("held", *["full"] * 5):
        await api.begin(APP.handler("carts", "draw"), b"x", key=key)
    await api.pause_key("carts", "paused")
    letter = add_dead_letter(bench, process, code="unreadable", **record)
    task = TaskFacts(awakeable_id=awakeables[0], reply_to=APP.completions_topic)
    tasks = [add_refused(bench, process, stream=begun[0].id, value=b"\xff", key=b"k", task=task)]
    refused = [add_refused(bench, process, event_id=api.new_id(kind)) for kind in EFFECT_KINDS]
    return {
        "awakeable_id": awakeables[:4] * (PENDING // 2) + awakeables[4:],  # each state often enough
        "invocation_id": [row.id for row in begun],
        "dead_letter_id": [letter],
        "event_id": [*tasks, *refused],
        "object": ["carts"],
        "key": list(KEYS),
    }


async def serve(tokens: Path, started: list[Target], ready: threading.Event, stop: asyncio.Event) -> None:
    bench = Bench(clock=SystemClock(), retention=timedelta(days=1))
    settings = WebSettings(call_timeout=timedelta(milliseconds=50), max_body_bytes=100_000)
    async with bench.running(APP, SETTINGS, executor=None) as process, asyncio.TaskGroup() as tasks:
        app = new_web_app(process, settings, tokens=tokens)
        server = WebServer(app, port=0, refuse=app.refuse)
        tasks.create_task(server.run())
        await until(lambda: server.started)  # uvicorn has no event for it
        started.append(Target(server.url, bearer("all"), await fill(bench, process)))
        ready.set()
        await stop.wait()
        server.stop()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    tokens = write_tokens(tmp_path_factory.mktemp("fuzz") / "tokens.toml", "all")
    started: list[Target] = []
    failed: list[BaseException] = []
    ready, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    def run() -> None:
        try:
            loop.run_until_complete(serve(tokens, started, ready, stop))
        except BaseException as error:
            failed.append(error)
        finally:
            loop.close()
            ready.set()

    # In CPython 3.11 a thread that formats a stack keeps the others from parsing Python (gh-106905), which
    # pytest and Hypothesis do when modules are imported.
    with mock.patch.object(local, "_traceback_of", return_value=""):
        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(20)
            assert failed == []
            yield started[0]
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stop.set)
            thread.join(20)
    assert not thread.is_alive()
    assert failed == []


def document() -> Any:
    """What is served at `/openapi.json`, but that tokens, which always are right here, are no part of it."""
    told = openapi(APP, version="0")
    for item in told["paths"].values():
        for operation in item.values():
            del operation["security"]
    return told


def operations_of(told: Any) -> list[Any]:
    results: list[Any] = list(schemathesis.openapi.from_dict(told).get_all_operations())
    return [result.ok() for result in results]


OPERATIONS = {told.label: told for told in operations_of(document())}


def can_be_wrong(operation: Any) -> bool:
    """Is there anything in a request to it that a document could tell of?"""
    raw = operation.definition.raw
    return bool(raw["parameters"] or "requestBody" in raw)


ASKED = [(label, GenerationMode.POSITIVE) for label in OPERATIONS]
ASKED += [(label, GenerationMode.NEGATIVE) for label in OPERATIONS if can_be_wrong(OPERATIONS[label])]


@pytest.mark.parametrize(("label", "mode"), ASKED, ids=lambda told: str(getattr(told, "value", told)))
def test_every_response_is_one_that_the_document_describes(
    target: Target, label: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=FUZZ_EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(OPERATIONS[label].as_strategy(generation_mode=mode))
        for name, ids in target.known.items():
            known = name in case.path_parameters and mode == GenerationMode.POSITIVE
            if known and data.draw(st.integers(0, 7)):
                case.path_parameters[name] = data.draw(st.sampled_from(ids))
        case.headers.update(target.token)
        answer = case.call(base_url=target.url, timeout=HANGS_AFTER_S)
        assert answer.status_code < 500 or b'"handler-failed"' in answer.content, answer.content
        case.validate_response(answer, checks=CHECKED)

    ask()
