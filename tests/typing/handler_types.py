"""What awaiting gives, as mypy and pyright see it (hard case 16). Checked, never run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from pydantic import BaseModel

from awakeables import (
    App,
    Awakeable,
    Call,
    Context,
    Durable,
    DurablePromise,
    KafkaRecord,
    KeyRing,
    Late,
    ObjectContext,
    PayloadCodec,
    Promise,
    PromiseName,
    RetryPolicy,
    Schedule,
    Serde,
    Service,
    SharedContext,
    State,
    Subscription,
    Task,
    TerminalError,
    TimedOut,
    Verdict,
    VirtualObject,
    Worker,
    Workflow,
)
from awakeables.testing import Answer, AsyncHarness, AsyncRunning, Harness, Published, Run, Running, run
from awakeables.worker.heartbeats import Beat


class Parcel(BaseModel):
    id: str


class ParcelSerde:
    def dumps(self, value: Parcel) -> bytes:
        return value.id.encode()

    def loads(self, content: bytes) -> Parcel:
        return Parcel(id=content.decode())


def sync(order: str, count: int) -> Parcel:
    return Parcel(id=order * count)


async def coroutine(order: str) -> Parcel:
    return Parcel(id=order)


def nothing() -> None: ...


service = Service("orders")
worker = Worker("packer")


@service.handler()
async def awakeables(ctx: Context) -> None:
    typed = ctx.awakeable(Parcel)
    assert_type(typed, Awakeable[Parcel])
    assert_type(typed.id, str)
    assert_type(typed.promise, Promise[Parcel])
    assert_type(await typed, Parcel)
    assert_type(await typed.promise, Parcel)

    awakeable_id, promise = typed
    assert_type(awakeable_id, str)
    assert_type(promise, Promise[Parcel])
    assert_type(await promise, Parcel)

    assert_type(await ctx.awakeable(int), int)
    assert_type(await ctx.awakeable(bytes), bytes)
    assert_type(await ctx.awakeable(list[Parcel]), list[Parcel])
    assert_type(await ctx.awakeable(), Any)

    # type[T] refuses a union: an overload takes it, and gives Any, which can be annotated.
    maybe: int | None = await ctx.awakeable(int | None)
    assert_type(maybe, int | None)

    serde: Serde[Parcel] = ParcelSerde()
    assert_type(await ctx.awakeable(serde=serde), Parcel)
    assert_type(await ctx.awakeable(serde=ParcelSerde()), Parcel)


@service.handler()
async def refund(ctx: Context, late: Late[Parcel]) -> None:
    assert_type(late.value, Parcel)
    assert_type(late.worker, str | None)


@service.handler()
async def watches(ctx: Context) -> None:
    job = ctx.awakeable(
        Parcel, timeout=timedelta(1), heartbeat_timeout=timedelta(minutes=2), on_late=refund, revocable=True
    )
    assert_type(job, Awakeable[Parcel])
    assert_type(job.progress(Parcel), Durable[Parcel | None])
    assert_type(await job.progress(Parcel), Parcel | None)
    assert_type(await job.progress(), Any)
    assert_type(await job.progress(list[Parcel]), list[Parcel] | None)
    # type[T] refuses a union here, too.
    epoch: int | str | None = await job.progress(int | str)
    assert_type(epoch, int | str | None)
    assert_type(ctx.awakeable(int, on_late="dead-letter"), Awakeable[int])
    try:
        await job
    except TimedOut as late:
        assert_type(late.progress(Parcel), Parcel | None)


async def runs(ctx: Context, order: str) -> Parcel:
    assert_type(ctx.run("sync", sync, order, 2), Durable[Parcel])
    assert_type(await ctx.run("sync", sync, order, 2), Parcel)
    assert_type(await ctx.run("coroutine", coroutine, order), Parcel)
    assert_type(await ctx.run("lambda", lambda: sync(order, 1)), Parcel)
    assert_type(await ctx.run("lambda around a coroutine", lambda: coroutine(order)), Parcel)
    assert_type(await ctx.run("partial", functools.partial(coroutine, order)), Parcel)
    assert_type(await ctx.run("nothing", nothing), None)
    async with ctx.saga() as saga, ctx.shield():
        assert_type(saga.undo("sync", sync, order, 2, retry=RetryPolicy(max_attempts=2)), None)
        assert_type(saga.undo("coroutine", coroutine, order), None)
    return await ctx.run("coroutine", coroutine, order)


@service.handler()
async def by_default(ctx: Context, most: int = 10) -> list[int]:
    return [most]


@service.handler("renamed")
async def without_input(ctx: Context) -> None: ...


@service.handler()
async def calls(ctx: Context) -> None:
    assert_type(ctx.call(runs, "o-1"), Call[Parcel])
    assert_type(ctx.call(runs, "o-1").id, str)
    assert_type(await ctx.call(runs, "o-1"), Parcel)
    assert_type(await ctx.call(by_default), list[int])
    assert_type(await ctx.call(by_default, 3, idempotency_key="k", headers={"a": "b"}), list[int])
    assert_type(await ctx.call(without_input), None)
    assert_type(ctx.send(runs, "o-1", delay=timedelta(days=1)), Call[Parcel])
    assert_type(await ctx.send(without_input), None)
    assert_type(await ctx.attach("inv_1…", Parcel), Parcel)
    assert_type(await ctx.attach("inv_1…"), Any)
    assert_type(ctx.attach("inv_1…", int), Call[int])
    assert_type(await ctx.attach("inv_1…", list[Parcel]), list[Parcel])
    assert_type(await ctx.attach("inv_1…", bytes), bytes)
    maybe: int | None = await ctx.attach("inv_1…", int | None)
    assert_type(maybe, int | None)
    wider: float = await ctx.attach("inv_1…", int)
    print(wider)


carts = VirtualObject("carts")
ITEMS = carts.state("items", list[str], default=list)
COUNT = carts.state("count", int, default=0)
NAME = carts.state("name", str)
SEEN = carts.state("seen", bool, default=False)


@carts.handler()
async def add(ctx: ObjectContext, item: str) -> int:
    assert_type(ITEMS, State[list[str]])
    assert_type(NAME, State[str | None])
    assert_type(SEEN["o-1"], State[bool])
    assert_type(await ctx.get(ITEMS), list[str])
    assert_type(await ctx.get(NAME), str | None)
    assert_type(len(await ctx.get(ITEMS)), int)
    assert_type(await ctx.gather(ctx.get(COUNT), ctx.get(SEEN["o-1"])), tuple[int, bool])
    assert_type(await ctx.keys(), Sequence[str])
    ctx.set(ITEMS, [item])
    ctx.set(NAME, None)
    ctx.clear(COUNT)
    ctx.clear()
    return len(ctx.key)


@carts.shared("renamed")
async def size(ctx: SharedContext) -> int:
    return len(await ctx.get(ITEMS))


@carts.handler()
async def any_context(ctx: Context) -> str:
    return "x"


@service.handler()
async def calls_objects(ctx: Context) -> None:
    assert_type(await ctx.call(add, "x", key="c-7"), int)
    assert_type(await ctx.call(size, key="c-7", idempotency_key="k"), int)
    assert_type(await ctx.call(any_context, key="c-7"), str)
    assert_type(ctx.send(add, "x", key="c-7", delay=timedelta(1)), Call[int])


async def branch(n: int) -> str:
    return str(n)


@service.handler()
async def combined(ctx: Context) -> None:
    parcel, number = ctx.awakeable(Parcel), ctx.awakeable(int)
    called = ctx.call(runs, "o-1")
    assert_type(ctx.gather(parcel, number), Durable[tuple[Parcel, int]])
    assert_type(await ctx.gather(parcel, called, number), tuple[Parcel, Parcel, int])
    assert_type(await ctx.gather(*[called, called]), tuple[Parcel, ...])
    assert_type(
        await ctx.gather(*[called, called], return_exceptions=True), tuple[Parcel | TerminalError, ...]
    )
    assert_type(await ctx.gather(*ctx.map(branch, [1, 2])), tuple[str, ...])
    assert_type(
        await ctx.gather(parcel, called, branch(1), number, cancel_losers=True),
        tuple[Parcel, Parcel, str, int],
    )
    assert_type(await ctx.race(parcel, number), Parcel | int)
    assert_type(await ctx.race(parcel, number, branch(1), cancel_losers=True), Parcel | int | str)
    assert_type(await ctx.race(*ctx.map(branch, [1, 2])), str)
    assert_type(await ctx.any(parcel, number), Parcel | int)
    assert_type(ctx.quorum(1, [called], cancel_losers=True), Durable[list[Parcel]])
    assert_type(await ctx.quorum(1, ctx.map(branch, [1, 2])), list[str])
    assert_type(ctx.gather(branch(1), parcel), Durable[tuple[str, Parcel]])
    assert_type(await ctx.race(branch(1), number), str | int)
    assert_type(ctx.map(branch, [1, 2], concurrency=2), list[Durable[str]])
    assert_type(await ctx.quorum(1, [branch(1), branch(2)]), list[str])
    assert_type(await ctx.race(parcel, ctx.sleep(timedelta(1))), Parcel | None)
    assert_type(await ctx.any(*[number, number]), int)
    assert_type(await ctx.quorum(2, [number, number]), list[int])
    assert_type(await ctx.select(parcel, parcel), Awakeable[Parcel])
    async for done in ctx.as_completed([called, called]):
        assert_type(done, Call[Parcel])
        assert_type(await done, Parcel)
    assert_type(ctx.map(lambda order: ctx.call(runs, order), ["o-1"], concurrency=2), list[Durable[Parcel]])
    assert_type(ctx.map(lambda days: ctx.sleep(timedelta(days)), (1, 2)), list[Durable[None]])
    assert_type(ctx.map(lambda _: ctx.awakeable(Parcel), range(3)), list[Durable[Parcel]])
    async with ctx.timeout(timedelta(hours=1)):
        assert_type(number.done, bool)
    assert_type(number.exception(), TerminalError | None)
    number.cancel()


@service.handler()
async def the_rest(ctx: Context) -> Sequence[str]:
    assert_type(await ctx.resolve_awakeable("prom_1…", 1), Verdict)
    assert_type(await ctx.reject_awakeable("prom_1…", "no"), Verdict)
    assert_type(ctx.publish("notices", 1), None)
    return [ctx.request.invocation_id, *ctx.request.headers]


@worker.task("pack-requests")
async def pack(task: Task[Parcel]) -> str:
    assert_type(task.payload, Parcel)
    return task.payload.id


@worker.task("gpu-jobs", "train", keepalive=True)
async def train(task: Task[Parcel]) -> int:
    assert_type(task.heartbeat(Parcel(id="p-1")), Beat)
    await task.heartbeat({"epoch": 1})
    await task.heartbeat()
    return task.attempt


@worker.task("gpu-jobs", keepalive=False)
def in_a_thread(task: Task[bytes]) -> bytes:
    task.heartbeat(progress=1)
    return task.payload


def by_topic(record: KafkaRecord) -> str:
    assert_type(record.key, bytes | None)
    assert_type(record.headers, Sequence[tuple[str, bytes | None]])
    return f"{record.topic}-{record.partition}"


subscribed = Service("subscribed")


@subscribed.handler(topic="new-orders")
async def fulfil_one(ctx: Context, parcel: Parcel) -> int:
    assert_type(ctx.request.record, KafkaRecord | None)
    return 1


async def calls_subscribed(ctx: Context) -> None:
    assert_type(await ctx.call(fulfil_one, Parcel(id="p-1")), int)


shelves = VirtualObject("shelves")


@shelves.handler(topic=Subscription("moves", start="latest", key=by_topic, on_failure="keep", max_open=5))
async def move_one(ctx: ObjectContext, parcel: Parcel) -> None: ...


@shelves.shared(topic=Subscription("looks", key=lambda record: record.topic))
async def look_at(ctx: SharedContext, value: bytes) -> None: ...


signups = Workflow("signups")
VERIFIED = signups.promise("verified", bool)
SIGNED = signups.promise("signed", Parcel)
STEP = signups.state("step", str, default="new")
assert_type(VERIFIED, PromiseName[bool])


@signups.run(topic="new-signups")
async def sign_up(ctx: ObjectContext, email: str) -> Parcel:
    ctx.set(STEP, "mailed")
    assert_type(ctx.promise(VERIFIED), DurablePromise[bool])
    assert_type(await ctx.promise(VERIFIED), bool)
    assert_type(await ctx.promise(VERIFIED).peek(), bool | None)
    perhaps: bool | None = await ctx.promise(VERIFIED)
    print(perhaps)
    first = await ctx.race(ctx.promise(SIGNED), ctx.promise(SIGNED))
    assert_type(first, Parcel)
    return first


@signups.handler()
async def sign(ctx: SharedContext, parcel: Parcel) -> str:
    assert_type(await ctx.promise(SIGNED).resolve(parcel), Verdict)
    assert_type(await ctx.promise(SIGNED).reject("no", code=409), Verdict)
    return await ctx.get(STEP)


async def calls_workflow(ctx: Context) -> None:
    assert_type(await ctx.call(sign_up, "a@b", key="k"), Parcel)
    assert_type(await ctx.call(sign, Parcel(id="p"), key="k"), str)


def tests_an_app(harness: Harness) -> None:
    assert_type(harness.send(by_default), Running[list[int]])
    assert_type(harness.send(runs, "o-1").result(), Parcel)
    assert_type(harness.call(runs, "o-1", headers={"a": "b"}), Parcel)
    assert_type(harness.call(size, key="c-7"), int)
    assert_type(harness.send(add, "book", key="c-7", delay=timedelta(1)), Running[int])
    assert_type(harness.call(sign_up, "a@b", key="k"), Parcel)
    assert_type(harness.next_task("packing").payload_as(Parcel), Parcel)
    assert_type(harness.next_task("packing").resolve(3), Verdict)
    assert_type(harness.state(STEP, "k"), str | None)
    harness.set_state(STEP, "k", "mailed")
    assert_type(harness.next_task("packing").resolve(3, after=timedelta(hours=1)), None)
    assert_type(harness.next_task("packing").reject("no", code=409), Verdict)
    assert_type(harness.resolve("prom_1…", 3), Verdict)
    assert_type(harness.reject("prom_1…", "no", after=timedelta(hours=1)), None)
    assert_type(harness.send(add, "book", key="c-7").restart(from_entry=2), Running[int])
    harness.pause(add)
    harness.pause(service)
    harness.resume(carts, "c-7")
    harness.resume(signups)
    harness.seek("reports.report", datetime.now(UTC))
    assert_type(harness.trigger_schedule("daily"), Running[Any] | None)


async def awaits_a_test(harness: AsyncHarness) -> None:
    assert_type(await harness.send(by_default), AsyncRunning[list[int]])
    assert_type(await (await harness.send(runs, "o-1")).result(), Parcel)
    assert_type(await harness.call(add, "book", key="c-7"), int)
    assert_type(await harness.next_task("packing").resolve(3), Verdict)
    assert_type(await harness.next_task("packing").reject("no", after=timedelta(hours=1)), None)
    assert_type(await harness.resolve("prom_1…", 3, after=timedelta(hours=1)), None)
    assert_type(await harness.reject("prom_1…", "no", details=1), Verdict)
    assert_type(await (await harness.send(runs, "o-1")).restart(), AsyncRunning[Parcel])
    await harness.pause(carts, key="c-7")
    await harness.resume(report)
    assert_type(await harness.trigger_schedule("daily"), AsyncRunning[Any] | None)


DAILY = Schedule("0 6 * * 1-5", timezone="Europe/Berlin", overlap="queue", missed="skip", name="daily")
OFTEN = Schedule.every(timedelta(minutes=10), overlap="allow", missed="all", within=timedelta(hours=2))
assert_type(OFTEN, Schedule)
reports = Service("reports")


@reports.handler(schedule=(DAILY, OFTEN))
async def report(ctx: Context) -> int:
    assert_type(ctx.request.scheduled_at, datetime | None)
    return 1


@shelves.handler(schedule=Schedule("0 6 * * *", key="all", input=Parcel(id="p-1")))
async def tidy(ctx: ObjectContext, parcel: Parcel) -> None: ...


async def calls_scheduled(ctx: Context) -> None:
    assert_type(await ctx.call(report), int)


rewritten = Service("rewritten")


@rewritten.handler("fulfil", version=1)
async def fulfilled_at_first(ctx: Context, order: str) -> int:
    assert_type(ctx.version("discount", 2), int)
    return ctx.version("discount", 3, oldest=2)


@rewritten.handler(version=2)
async def fulfil(ctx: Context, order: Parcel) -> Parcel:
    assert_type(await ctx.call(fulfil, order), Parcel)
    assert_type(await ctx.call(fulfilled_at_first, "o-1"), int)
    return order


class Mask:
    """A codec of one's own."""

    key_id = "2026"

    def seal(self, content: bytes, /, *, bound_to: str) -> bytes:
        return content[::-1]

    def open(self, sealed: bytes, /, *, key_id: str, bound_to: str) -> bytes:
        return sealed[::-1]


ring = KeyRing(current="2026", keys={"2026": bytes(32)}, lost=["2025"], accepts_clear=False)
codec: PayloadCodec = ring
App("shop", services=[service, carts, signups], codec=ring)
App("shop", services=[service], codec=Mask())
App("shop", services=(service,), codec=None)
KeyRing(current=None, keys={})


def answers(task: Task[Any]) -> Answer:
    return Answer(task.payload, after=timedelta(1))


def runs_a_handler(record: KafkaRecord, at: datetime) -> None:
    assert_type(run(runs, "o-1"), Run)
    assert_type(run(without_input, suspend=False, thorough=True, seed=1).duration, timedelta)
    done = run(
        watches,
        workers=[worker],
        answers={"pack-requests": "packed", "gpu-jobs": answers},
        on_wait=lambda wait: wait.resolve(1),
        headers={"a": "b"},
        retry=RetryPolicy(max_attempts=1),
    )
    assert_type(done.value, Any)
    assert_type(done.published, Sequence[Published])
    assert_type(done.journal, Sequence[str])
    run(add, "x", key="c-7", state={ITEMS: ["book"], SEEN["o-1"]: True})
    run(fulfil_one, record=record)
    run(report, scheduled_at=at)


async def read_flag(ctx: Context) -> bool:
    return True


@service.handler()
async def combines_several_types(ctx: Context) -> None:
    parcel, number, text = ctx.awakeable(Parcel), ctx.call(by_default), branch(1)
    flag, nap, ratio = read_flag(ctx), ctx.sleep(timedelta(1)), ctx.awakeable(float)
    assert_type(await ctx.gather(parcel), tuple[Parcel])
    assert_type(await ctx.gather(parcel, number, text, flag, nap), tuple[Parcel, list[int], str, bool, None])
    assert_type(
        ctx.gather(parcel, number, text, flag, nap, ratio, cancel_losers=True),
        Durable[tuple[Parcel, list[int], str, bool, None, float]],
    )
    assert_type(await ctx.race(parcel), Parcel)
    assert_type(await ctx.race(parcel, number, text, flag), Parcel | list[int] | str | bool)
    assert_type(await ctx.race(parcel, number, text, flag, nap), Parcel | list[int] | str | bool | None)
    assert_type(
        ctx.race(parcel, number, text, flag, nap, ratio, cancel_losers=True),
        Durable[Parcel | list[int] | str | bool | None | float],
    )
    assert_type(await ctx.any(parcel), Parcel)
    assert_type(await ctx.any(parcel, number, text), Parcel | list[int] | str)
    assert_type(await ctx.any(parcel, number, text, flag), Parcel | list[int] | str | bool)
    assert_type(await ctx.any(parcel, number, text, flag, nap), Parcel | list[int] | str | bool | None)
    assert_type(
        ctx.any(parcel, number, text, flag, nap, ratio, cancel_losers=True),
        Durable[Parcel | list[int] | str | bool | None | float],
    )
    # A combination is a part like others.
    assert_type(
        await ctx.gather(ctx.race(parcel, text), ctx.gather(number, flag)),
        tuple[Parcel | str, tuple[list[int], bool]],
    )
    # What is waited for may be annotated by a wider type.
    wider: tuple[Parcel | None, object] = await ctx.gather(parcel, number)
    sequence: Sequence[Parcel | str] = await ctx.gather(parcel, text)
    either: Durable[Parcel | str | None] = ctx.race(parcel, text)
    print(wider, sequence, either)


@service.handler()
async def gets_failures_in_place(ctx: Context, in_place: bool) -> None:
    parcel, number, text = ctx.awakeable(Parcel), ctx.call(by_default), branch(1)
    flag, nap, ratio = read_flag(ctx), ctx.sleep(timedelta(1)), ctx.awakeable(float)
    assert_type(await ctx.gather(parcel, return_exceptions=True), tuple[Parcel | TerminalError])
    assert_type(
        await ctx.gather(parcel, text, return_exceptions=True),
        tuple[Parcel | TerminalError, str | TerminalError],
    )
    assert_type(
        await ctx.gather(parcel, text, nap, return_exceptions=True, cancel_losers=False),
        tuple[Parcel | TerminalError, str | TerminalError, TerminalError | None],
    )
    assert_type(
        await ctx.gather(parcel, text, nap, flag, return_exceptions=True),
        tuple[Parcel | TerminalError, str | TerminalError, TerminalError | None, bool | TerminalError],
    )
    assert_type(
        await ctx.gather(parcel, text, nap, flag, ratio, return_exceptions=True),
        tuple[
            Parcel | TerminalError,
            str | TerminalError,
            TerminalError | None,
            bool | TerminalError,
            float | TerminalError,
        ],
    )
    assert_type(
        ctx.gather(parcel, text, nap, flag, ratio, number, return_exceptions=True),
        Durable[
            tuple[
                Parcel | TerminalError,
                str | TerminalError,
                TerminalError | None,
                bool | TerminalError,
                float | TerminalError,
                list[int] | TerminalError,
            ]
        ],
    )
    first, second = await ctx.gather(parcel, text, return_exceptions=True)
    if isinstance(first, TerminalError) or isinstance(second, TerminalError):
        raise TerminalError("no parcel")
    assert_type((first, second), tuple[Parcel, str])
    assert_type(await ctx.gather(parcel, text, return_exceptions=False), tuple[Parcel, str])
    # Known at run time only.
    assert_type(
        await ctx.gather(parcel, text, return_exceptions=in_place),
        tuple[Parcel | TerminalError, str | TerminalError],
    )
    assert_type(await ctx.gather(*[parcel], return_exceptions=in_place), tuple[Parcel | TerminalError, ...])


@service.handler()
async def combines_any_number(ctx: Context) -> None:
    number, text = ctx.awakeable(int), ctx.awakeable(str)
    numbers = [ctx.awakeable(int) for _ in range(9)]
    assert_type(await ctx.gather(*numbers), tuple[int, ...])
    assert_type(await ctx.gather(number, *numbers), tuple[int, ...])
    assert_type(await ctx.gather(*(branch(n) for n in range(9))), tuple[str, ...])
    assert_type(await ctx.gather(number, number, number, number, number, number, number), tuple[int, ...])
    assert_type(
        await ctx.gather(number, number, number, number, number, number, number, return_exceptions=True),
        tuple[int | TerminalError, ...],
    )
    assert_type(await ctx.race(*numbers), int)
    assert_type(await ctx.race(number, *numbers), int)
    assert_type(await ctx.race(number, number, number, number, number, number, number), int)
    assert_type(await ctx.any(*(branch(n) for n in range(9))), str)
    assert_type(await ctx.any(number, number, number, number, number, number, number), int)
    pair = (number, text)
    assert_type(await ctx.gather(*pair), tuple[int, str])
    assert_type(await ctx.gather(*pair, branch(1), number), tuple[int, str, str, int])
    assert_type(await ctx.race(*pair), int | str)
    assert_type(await ctx.gather(), tuple[()])
    assert_type(await ctx.gather(return_exceptions=True), tuple[()])


@service.handler()
async def combines_what_has_no_type(ctx: Context) -> None:
    untyped, text = ctx.awakeable(), branch(1)
    several = [ctx.awakeable(), ctx.awakeable()]
    assert_type(await ctx.gather(untyped, text), tuple[Any, str])
    assert_type(await ctx.race(untyped, text), Any | str)
    [alone] = await ctx.gather(untyped, return_exceptions=True)
    assert_type(alone, Any | TerminalError)
    one, other = await ctx.gather(untyped, text, return_exceptions=True)
    assert_type(one, Any | TerminalError)
    assert_type(other, str | TerminalError)
    first, second = await ctx.gather(*several, return_exceptions=True)
    assert_type((first, second), tuple[Any | TerminalError, Any | TerminalError])
