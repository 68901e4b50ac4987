"""Services whose handlers run elsewhere, through the whole engine: the function is in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from awakeables import (
    App,
    Context,
    RemoteService,
    RetryPolicy,
    Service,
    TerminalError,
)
from awakeables.core.invocations import Status
from awakeables.core.sources import source_of
from awakeables.errors import NotFound, OperatorError
from awakeables.handlers.attempt import AwakeableWait, Progress, RunWait
from awakeables.handlers.stateless import MOST_SUSPENDED, MOST_WAITS, SuspendedWaits
from awakeables.remote.attempts import RemoteAttempts
from awakeables.remote.described import FunctionMisfit
from awakeables.remote.functions import FAILURES, Functions
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics
from awakeables.testing.bench import Bench, Process, quick, until
from support.functions import IN_PROCESS, client_of, function_of
from support.logs import heard
from unit.engine.harness import value


class Parcel(BaseModel):
    weight: int


class Place:
    """Where a function is: its answers can be broken."""

    def __init__(self, app: App, **options: Any) -> None:
        self.app = app
        self.options = options
        self.requests = 0
        self.descriptions = 0
        self.fails_after: int | None = None
        self.loses_answers = False
        self.takes_s = 0.0
        self.status = 200
        self.describes = False
        self.nonsense: bytes | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += scope["method"] == "POST"
        self.descriptions += scope["method"] == "GET"
        await asyncio.sleep(self.takes_s)
        is_described = self.describes and scope["method"] == "GET"
        if (self.status != 200 and not is_described) or (self.nonsense and scope["method"] == "POST"):
            await send({"type": "http.response.start", "status": self.status, "headers": []})
            await send({"type": "http.response.body", "body": self.nonsense or b'{"detail": "broken"}'})
            return
        sent: list[Any] = []

        async def keep(message: Any) -> None:
            sent.append(message)

        await function_of(self.app, **self.options)(scope, receive, keep)
        if self.loses_answers:
            self.loses_answers = False
            raise httpx.ReadError("the connection was closed")
        for message in sent:
            await send(message)


class Elsewhere:
    """A service whose handlers run elsewhere, and what it needs."""

    def __init__(self, orders: Service, *local: Any, **options: Any) -> None:
        self.place = Place(App("functions", services=[orders]))
        self.orders = RemoteService("orders", url=IN_PROCESS, **options)
        self.local = local
        self.functions: Functions | None = None
        self.problems: dict[str, str] = {}
        self.metrics = Metrics()
        self.bench = Bench(handlers=self._attempts)

    def _attempts(self, *args: Any) -> RemoteAttempts:
        assert self.functions is not None
        return RemoteAttempts(self.functions, *args)

    def counted(self, name: str, **labels: str) -> float:
        """A metric of the functions."""
        return self.metrics.registry.get_sample_value(f"awakeables_{name}", labels) or 0.0

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[Process]:
        app = App("shop", services=[self.orders, *self.local])
        self.metrics = Metrics()
        self.functions = Functions(app, client_of(self.place), self.metrics)
        await self.functions.learn_all()
        probing = asyncio.ensure_future(self.functions.run(self.problems))
        try:
            async with self.bench.running(app, quick(**settings)) as process:
                yield process
        finally:
            probing.cancel()
            await self.functions.close()


def orders_with(**handlers: Any) -> Service:
    service = Service("orders")
    for name, function in handlers.items():
        service.handler(name)(function)
    return service


async def pack(ctx: Context, item: str) -> int:
    parcel = ctx.awakeable(Parcel)
    ctx.publish("packing", item, awakeable=parcel)
    return (await parcel).weight


async def test_a_callback_goes_through_a_function() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        invocation = await bench.begin(process, "pack", b'"book"')
        row = await bench.status(invocation, "suspended")
        awakeable = await bench.awakeable(invocation)
        assert [effect.topic for effect in bench.broker.published] == ["packing"]
        misfit = await bench.settle(process, awakeable.id, {"weight": "heavy"}, source_of("http", "misfit"))
        assert misfit.kind == "invalid"
        assert (await bench.settle(process, awakeable.id, {"weight": 3})).kind == "accepted"
        row = await bench.status(invocation, "completed")
        assert value(row) == 3


async def test_nothing_is_sent_while_invocations_wait() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        begun = [await bench.begin(process, "pack", b'"book"') for _ in range(20)]
        for invocation in begun:
            await bench.status(invocation, "suspended")
        before = elsewhere.place.requests
        await asyncio.sleep(600)
        assert elsewhere.place.requests == before
        for invocation in begun:
            await bench.settle(process, (await bench.awakeable(invocation)).id, {"weight": 3})
        for invocation in begun:
            await bench.status(invocation, "completed")
        assert elsewhere.place.requests == before + len(begun)


async def test_after_a_restart_the_first_request_finds_out_what_the_handler_waits_for() -> None:
    async def walk(ctx: Context) -> list[int]:
        first = await ctx.awakeable(int)
        await ctx.sleep(timedelta(hours=1))
        return [first, await ctx.awakeable(int, timeout=timedelta(days=1))]

    async def answered(process: Process, number: int) -> None:
        last = bench.awakeables(invocation)[-1]
        assert (await bench.settle(process, last.id, number)).kind == "accepted"

    async def requests_for(what: Awaitable[None], status: Status) -> int:
        before = elsewhere.place.requests
        await what
        await asyncio.sleep(60)
        assert bench.row(invocation).status == status
        return elsewhere.place.requests - before

    elsewhere = Elsewhere(orders_with(walk=walk))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        invocation = await bench.begin(process, "walk")
        await bench.status(invocation, "suspended")
    async with elsewhere.running() as process:
        assert await requests_for(answered(process, 1), "suspended") == 2
        assert await requests_for(asyncio.sleep(3600), "suspended") == 1
        assert await requests_for(answered(process, 2), "completed") == 1
    assert value(bench.row(invocation)) == [1, 2]


async def test_a_deployment_that_waits_for_something_else_is_given_what_it_waits_for() -> None:
    async def before(ctx: Context) -> int:
        first, second = ctx.awakeable(int), ctx.awakeable(int)
        return await first + await second

    async def after(ctx: Context) -> int:
        first, second = ctx.awakeable(int), ctx.awakeable(int)
        return await second + 10 * await first

    elsewhere = Elsewhere(orders_with(handler=before))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        invocation = await bench.begin(process, "handler")
        await bench.status(invocation, "suspended")
        elsewhere.place.app = App("functions", services=[orders_with(handler=after)])
        one, two = bench.awakeables(invocation)
        await bench.settle(process, one.id, 1)
        await asyncio.sleep(600)
        assert bench.row(invocation).status == "suspended"
        await bench.settle(process, two.id, 2)
        assert value(await bench.status(invocation, "completed")) == 12


def test_what_suspended_invocations_wait_for_is_kept_for_so_many() -> None:
    kept = SuspendedWaits()
    wait = AwakeableWait(index=1, awakeable_id="a")
    for number in range(MOST_SUSPENDED + 1):
        kept.keep(f"inv-{number}", 2, Progress(blocked_on=(wait,)))
    assert kept.take("inv-0", 2) is None
    assert kept.take("inv-1", 2) == Progress(blocked_on=(wait,))
    assert kept.take("inv-1", 2) is None
    assert kept.take("inv-2", 3) is None  # another instance has added to its journal
    run = RunWait(index=2, name="charge", due_ms=5)
    for waits, options in (
        ((wait,) * (MOST_WAITS + 1), {}),
        ((wait, run), {}),
        ((), {}),
        ((wait,), {"owes": True}),
        ((wait,), {"shielded": True}),
        ((wait,), {"running": 1}),
    ):
        kept.keep("other", 2, Progress(blocked_on=waits, **options))
        assert kept.take("other", 2) is None


async def test_actions_are_executed_there_after_what_came_before_is_durable() -> None:
    ran: list[str] = []

    async def handler(ctx: Context) -> list[str]:
        return [await ctx.run("charge", charge, "1"), await ctx.run("mail", charge, "2")]

    def charge(number: str) -> str:
        ran.append(number)
        return f"charged {number}"

    elsewhere = Elsewhere(orders_with(handler=handler))
    async with elsewhere.running() as process:
        invocation = await elsewhere.bench.begin(process, "handler")
        row = await elsewhere.bench.status(invocation, "completed")
    assert value(row) == ["charged 1", "charged 2"]
    assert ran == ["1", "2"]


async def test_an_answer_that_was_lost_is_like_a_crash_and_the_handler_goes_on_where_it_was() -> None:
    ran: list[str] = []

    async def handler(ctx: Context) -> str:
        first = await ctx.run("first", charge, "1")
        await ctx.sleep(timedelta(minutes=1))
        return first + await ctx.run("second", charge, "2")

    def charge(number: str) -> str:
        ran.append(number)
        elsewhere.place.loses_answers = number == "2" and ran.count("2") < 3
        return number

    elsewhere = Elsewhere(orders_with(handler=handler))
    async with elsewhere.running() as process:
        invocation = await elsewhere.bench.begin(process, "handler")
        row = await elsewhere.bench.status(invocation, "completed")
    assert value(row) == "12"
    assert ran[0] == "1"
    assert ran.count("1") == 1  # it is in the journal
    assert ran.count("2") == 3  # executed, and its outcome lost twice


async def test_failures_come_over() -> None:
    async def fails(ctx: Context) -> None:
        raise TerminalError("no stock", code=409, details={"left": 0})

    async def crashes(ctx: Context) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    async def retried(ctx: Context) -> int:
        return await ctx.run("flaky", crash_once, retry=RetryPolicy(max_attempts=3))

    def crash_once() -> int:
        tries.append(1)
        if len(tries) == 4:
            raise ValueError("again")
        return len(tries)

    tries: list[int] = []
    elsewhere = Elsewhere(orders_with(fails=fails, crashes=crashes, retried=retried))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        row = await bench.status(await bench.begin(process, "fails"), "completed")
        failure = json.loads(row.result)["failure"] if isinstance(row.result, bytes) else row.result
        assert "no stock" in str(failure)
        assert value(await bench.status(await bench.begin(process, "crashes"), "completed")) == 3
        assert value(await bench.status(await bench.begin(process, "retried"), "completed")) == 5


async def test_a_function_that_is_down_gets_no_requests_and_its_invocations_wait_unharmed() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        begun = [await bench.begin(process, "pack", b'"book"') for _ in range(30)]
        for invocation in begun:
            await bench.status(invocation, "suspended")
        elsewhere.place.status = 503
        for invocation in begun:
            await bench.settle(process, (await bench.awakeable(invocation)).id, {"weight": 3})
        await until(lambda: "function orders" in elsewhere.problems, "it is on the board")
        assert "answered with 503: broken" in elsewhere.problems["function orders"]
        before = elsewhere.place.requests
        await asyncio.sleep(600)
        assert elsewhere.place.requests == before
        assert max(bench.row(each).attempts for each in begun) <= 1
        assert elsewhere.counted("function_down", service="orders") == 1
        refused = elsewhere.counted("function_requests_total", service="orders", result="FunctionRefused")
        assert refused >= FAILURES
        elsewhere.place.status = 200
        for invocation in begun:
            assert value(await bench.status(invocation, "completed")) == 3
        await until(lambda: not elsewhere.problems, "the board is empty")
        assert elsewhere.counted("function_down", service="orders") == 0
        answered = elsewhere.counted("function_requests_total", service="orders", result="answered")
        assert answered + refused == elsewhere.place.requests


async def test_a_single_failure_does_not_stop_the_others() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        assert elsewhere.functions is not None
        elsewhere.place.status = 500
        for _ in range(FAILURES - 1):
            await bench.begin(process, "pack", b'"book"')
        await until(lambda: elsewhere.place.requests >= FAILURES - 1, "they were tried")
        assert not elsewhere.functions.unavailable()
        elsewhere.place.status = 200
        await bench.status(await bench.begin(process, "pack", b'"book"'), "suspended")


async def test_what_is_called_while_it_is_down_waits() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        elsewhere.place.status = 500
        begun = [await bench.begin(process, "pack", b'"book"') for _ in range(FAILURES)]
        await until(lambda: elsewhere.problems, "it is down")
        before = elsewhere.place.requests
        begun.append(await bench.begin(process, "pack", b'"late"'))
        await asyncio.sleep(600)
        assert elsewhere.place.requests == before
        elsewhere.place.status = 200
        for invocation in begun:
            await bench.status(invocation, "suspended")


async def test_local_handlers_call_remote_ones_and_get_typed_results() -> None:
    async def parcel(ctx: Context, weight: int) -> Parcel:
        if weight < 0:
            raise TerminalError("too light", code=409)
        return Parcel(weight=weight)

    local = Service("local")
    elsewhere = Elsewhere(orders_with(parcel=parcel), local)
    remote_parcel = elsewhere.orders.named("parcel", int, Parcel)

    @local.handler()
    async def caller(ctx: Context) -> list[Any]:
        sent = ctx.send(remote_parcel, 2)
        first = await ctx.call(remote_parcel, 1)
        assert isinstance(first, Parcel)
        try:
            await ctx.call(remote_parcel, -1)
        except TerminalError as error:
            return [first.weight, (await sent).weight, error.reason, error.code]
        raise AssertionError

    @local.handler()
    async def misuses(ctx: Context) -> Any:
        try:
            await ctx.call(remote_parcel, "heavy")  # type: ignore[arg-type]
        except TerminalError as error:
            return error.code

    async with elsewhere.running() as process:
        api = process.api
        row = await elsewhere.bench.status((await api.begin(api.app.find(caller), b"null")).id, "completed")
        assert value(row) == [1, 2, "too light", 409]
        row = await elsewhere.bench.status((await api.begin(api.app.find(misuses), b"null")).id, "completed")
        assert value(row) == 422


async def test_remote_handlers_call_each_other() -> None:
    orders = Service("orders")

    @orders.handler()
    async def inner(ctx: Context, number: int) -> int:
        await ctx.sleep(timedelta(seconds=1))
        return number + 1

    @orders.handler()
    async def outer(ctx: Context) -> tuple[int, ...]:
        return await ctx.gather(*(ctx.call(inner, number) for number in range(3)))

    elsewhere = Elsewhere(orders)
    async with elsewhere.running() as process:
        row = await elsewhere.bench.status(await elsewhere.bench.begin(process, "outer"), "completed")
    assert value(row) == [1, 2, 3]


async def test_a_cancelled_invocation_is_told_there() -> None:
    async def handler(ctx: Context) -> str:
        try:
            return await ctx.awakeable(str)
        finally:
            await ctx.run("undo", undone.append, 1)

    undone: list[int] = []
    elsewhere = Elsewhere(orders_with(handler=handler))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        invocation = await bench.begin(process, "handler")
        await bench.status(invocation, "suspended")
        await process.api.cancel(invocation)
        await bench.status(invocation, "completed")
    assert undone == [1]


async def test_a_function_that_is_not_what_is_declared_refuses_the_start() -> None:
    elsewhere = Elsewhere(Service("other"))
    elsewhere.place = Place(App("functions", services=[orders_with(pack=pack)]))
    elsewhere.orders = RemoteService("nothing", url=IN_PROCESS)
    with pytest.raises(FunctionMisfit, match="no service 'nothing'; it has: orders"):
        async with elsewhere.running():
            pass


async def test_a_start_waits_for_a_function_for_a_minute() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    elsewhere.place.status = 500
    asyncio.get_running_loop().call_later(30, setattr, elsewhere.place, "status", 200)
    async with elsewhere.running() as process:
        assert process.api.app.handler("orders", "pack")
    elsewhere.place.status = 500
    with pytest.raises(FunctionMisfit, match="answered with 500: broken"):
        async with elsewhere.running():
            pass


async def test_a_limit_exceeded_pauses_by_name() -> None:
    async def handler(ctx: Context) -> None:
        await ctx.run("render", asyncio.sleep, 60)

    elsewhere = Elsewhere(orders_with(handler=handler))
    elsewhere.place.options = {"limit": timedelta(seconds=5)}
    async with elsewhere.running() as process:
        row = await elsewhere.bench.status(await elsewhere.bench.begin(process, "handler"), "paused")
    assert row.failure is not None
    assert row.failure.kind == "FunctionLimitExceeded"
    assert "use an awakeable" in row.failure.message


async def test_with_a_retry_a_limit_exceeded_is_a_failed_attempt_of_the_action() -> None:
    begun: list[float] = []

    async def render(first_s: float) -> str:
        begun.append(first_s)
        await asyncio.sleep(first_s / len(begun) ** 2)
        return "rendered"

    async def handler(ctx: Context, first_s: float) -> str:
        try:
            return await ctx.run("render", render, first_s, retry=RetryPolicy(max_attempts=2))
        except TerminalError as failure:
            return failure.reason

    elsewhere = Elsewhere(orders_with(handler=handler))
    elsewhere.place.options = {"limit": timedelta(seconds=5)}
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        later = await bench.status(await bench.begin(process, "handler", b"12"), "completed")
        assert (value(later), len(begun)) == ("rendered", 2)
        begun.clear()
        never = await bench.status(await bench.begin(process, "handler", b"60"), "completed")
        assert "failed 2 times" in value(never)
        assert "took longer than the function's limit, 5 s: use an awakeable" in value(never)
        assert len(begun) == 2


async def test_actions_that_end_beside_one_that_takes_too_long_are_kept() -> None:
    quick_ones: list[int] = []

    async def handler(ctx: Context) -> None:
        await ctx.gather(ctx.run("quick", quick_ones.append, 1), ctx.run("slow", asyncio.sleep, 60))

    elsewhere = Elsewhere(orders_with(handler=handler))
    elsewhere.place.options = {"limit": timedelta(seconds=5)}
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        invocation = await bench.begin(process, "handler")
        await bench.status(invocation, "paused")
        await process.api.resume(invocation)
        await bench.status(invocation, "paused")
        await asyncio.sleep(20)
    assert quick_ones == [1]


async def test_a_function_that_only_describes_itself_is_asked_less_and_less_often() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        elsewhere.place.status = 500
        elsewhere.place.describes = True
        elsewhere.place.takes_s = 0.5
        begun = [await bench.begin(process, "pack", b'"book"') for _ in range(20)]
        await asyncio.sleep(600)
        assert elsewhere.problems
        # Without that it would be asked 600 times. After each probe it gets one request, and the others wait
        # for what comes of it.
        assert elsewhere.place.descriptions < 40
        assert elsewhere.place.requests <= len(begun) + elsewhere.place.descriptions
        assert sum(bench.row(each).attempts for each in begun) <= elsewhere.place.requests
        elsewhere.place.status = 200
        for invocation in begun:
            await bench.status(invocation, "suspended")


async def test_a_function_is_read_again_by_command() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    async with elsewhere.running() as process:
        assert elsewhere.functions is not None
        [status] = elsewhere.functions.statuses()
        assert (status.handlers, status.build, status.problem) == (("orders/pack",), "", None)

        async def count(ctx: Context, item: str) -> int:
            return 7

        elsewhere.place.app = App("functions", services=[orders_with(count=count)])
        elsewhere.place.options = {"build": "2"}
        with pytest.raises(NotFound):
            process.api.app.handler("orders", "count")
        status = await elsewhere.functions.refresh("orders")
        # What it has no more may still be what open invocations are of.
        assert (set(status.handlers), status.build) == ({"orders/count", "orders/pack"}, "2")
        invocation = await elsewhere.bench.begin(process, "count", b'"book"')
        assert value(await elsewhere.bench.status(invocation, "completed")) == 7
        elsewhere.place.status = 500
        with pytest.raises(OperatorError, match="answered with 500"):
            await elsewhere.functions.refresh("orders")
        with pytest.raises(NotFound, match="no remote service 'order'; there are: orders"):
            await elsewhere.functions.refresh("order")


async def test_a_new_build_is_noticed_with_its_first_answer() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    elsewhere.place.options = {"build": "1"}
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        assert elsewhere.functions is not None
        await bench.status(await bench.begin(process, "pack", b'"book"'), "suspended")
        await asyncio.sleep(60)
        assert elsewhere.place.descriptions == 1

        async def pack_numbers(ctx: Context, number: int) -> int:
            return number

        elsewhere.place.app = App("functions", services=[orders_with(pack=pack_numbers)])
        elsewhere.place.options = {"build": "2"}
        await bench.status(await bench.begin(process, "pack", b'"book"'), "paused")
        await until(lambda: elsewhere.functions.statuses()[0].build == "2", "it was read")  # type: ignore[union-attr]
        assert process.api.app.handler("orders", "pack").accept(b"7") == b"7"
        await asyncio.sleep(60)
        assert elsewhere.place.descriptions == 2


async def test_a_new_build_that_can_not_be_served_is_said_once() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    elsewhere.orders.named("pack", str, int)
    elsewhere.place.options = {"build": "1"}
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        begun = await bench.begin(process, "pack", b'"book"')
        await bench.status(begun, "suspended")
        elsewhere.place.app = App("functions", services=[orders_with(other=pack)])
        elsewhere.place.options = {"build": "2"}
        with heard() as logs:
            await bench.settle(process, (await bench.awakeable(begun)).id, {"weight": 3})
            await asyncio.sleep(60)
        said = [each["reason"] for each in logs if each["event"] == events.FUNCTION_NOT_READ]
        assert len(said) == 1
        assert "orders has no handler 'pack'; it has: other" in said[0]
        assert process.api.app.handler("orders", "pack")


async def test_what_describes_itself_and_answers_nonsense_is_down_as_well() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    async with elsewhere.running() as process:
        elsewhere.place.nonsense = b"<html>"
        for _ in range(FAILURES):
            await elsewhere.bench.begin(process, "pack", b'"book"')
        await until(lambda: elsewhere.problems, "it is on the board")
        assert "is not a function of this release" in elsewhere.problems["function orders"]


async def test_bytes_that_are_no_text_are_a_failed_attempt() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack))
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        elsewhere.place.nonsense = b'{"blocked_on": [{"on": "run", "index": 1, "name": "\xe9"}]}'
        invocation = await bench.begin(process, "pack", b'"book"')
        await until(lambda: bench.row(invocation).failure, "it has failed")
        assert "FunctionMisunderstood" in str(bench.row(invocation).failure)
        elsewhere.place.nonsense = None
        await bench.status(invocation, "suspended")


async def test_an_older_deployment_after_an_outage_loses_no_invocation() -> None:
    async def other(ctx: Context) -> None: ...

    elsewhere = Elsewhere(orders_with(pack=pack, other=other))
    bench, newer = elsewhere.bench, elsewhere.place.app
    async with elsewhere.running() as process:
        invocation = await bench.begin(process, "pack", b'"book"')
        await bench.status(invocation, "suspended")
        elsewhere.place.status = 500
        for _ in range(FAILURES):
            await bench.begin(process, "other")
        await until(lambda: elsewhere.problems, "it is down")
        elsewhere.place.app = App("functions", services=[orders_with(other=other)])
        elsewhere.place.status = 200
        await until(lambda: not elsewhere.problems, "it answers")
        await bench.settle(process, (await bench.awakeable(invocation)).id, {"weight": 3})
        await until(lambda: bench.row(invocation).failure, "it was tried")
        assert "NotFound" in str(bench.row(invocation).failure)
        elsewhere.place.app = newer
        assert value(await bench.status(invocation, "completed")) == 3


async def test_what_queues_for_a_place_is_not_sent_to_a_function_that_is_down() -> None:
    elsewhere = Elsewhere(orders_with(pack=pack), max_concurrent=1)
    bench = elsewhere.bench
    async with elsewhere.running() as process:
        elsewhere.place.status = 500
        begun = [await bench.begin(process, "pack", b'"book"') for _ in range(40)]
        await until(lambda: elsewhere.problems, "it is down")
        assert elsewhere.place.requests == FAILURES
        assert sum(bench.row(each).attempts for each in begun) == FAILURES


async def test_no_more_requests_than_allowed_are_under_way() -> None:
    under_way = most = 0

    async def handler(ctx: Context) -> None:
        await ctx.run("work", work)

    async def work() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1)
        under_way -= 1

    elsewhere = Elsewhere(orders_with(handler=handler), max_concurrent=3)
    async with elsewhere.running() as process:
        begun = [await elsewhere.bench.begin(process, "handler") for _ in range(20)]
        for invocation in begun:
            await elsewhere.bench.status(invocation, "completed")
    assert most == 3
