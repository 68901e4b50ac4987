"""What the type checker must refuse: each line below has the error that it must give.

`warn_unused_ignores` is on, so a line that is no error any more fails the check.
"""

from __future__ import annotations

from datetime import timedelta

from awakeables import (
    App,
    Call,
    Context,
    KafkaRecord,
    KeyRing,
    ObjectContext,
    Schedule,
    Service,
    SharedContext,
    Subscription,
    Task,
    TimedOut,
    VirtualObject,
    Worker,
    Workflow,
)
from awakeables.testing import Harness, run

carts = VirtualObject("carts")
service = Service("orders")
COUNT = carts.state("count", int, default=0)
NAME = carts.state("name", str)


async def pack(ctx: Context, order: str) -> int:
    return 1


async def no_handler(order: str) -> None: ...


def takes_two(order: str, count: int) -> None: ...


@carts.handler()
async def add(ctx: ObjectContext, item: str) -> int:
    ctx.set(COUNT, "x")  # type: ignore[misc]
    ctx.set(NAME, 1)  # type: ignore[misc]
    ctx.clear("count")  # type: ignore[arg-type]
    COUNT[1]  # type: ignore[index]
    number: str = await ctx.get(COUNT)  # type: ignore[arg-type]
    return len(number)


@carts.shared()
async def size(ctx: SharedContext) -> int:
    ctx.set(COUNT, 1)  # type: ignore[attr-defined]
    return await ctx.get(COUNT)


@carts.shared()  # type: ignore[arg-type]
async def no_writes(ctx: ObjectContext) -> None: ...


async def branch(n: int) -> str:
    return str(n)


@service.handler()  # type: ignore[arg-type]
async def no_object(ctx: SharedContext) -> None: ...


signups = Workflow("signups")
VERIFIED = signups.promise("verified", bool)


@signups.handler()
async def clicks(ctx: SharedContext) -> None:
    verified = ctx.promise(VERIFIED)
    number: str = await verified  # type: ignore[assignment]
    await verified.resolve("yes")  # type: ignore[arg-type]
    ctx.promise("verified")  # type: ignore[arg-type]
    ctx.promise(COUNT)  # type: ignore[arg-type]
    print(number)


@signups.handler()  # type: ignore[arg-type]
async def no_run(ctx: ObjectContext) -> None: ...


async def no_promise(ctx: Context) -> None:
    ctx.promise(VERIFIED)  # type: ignore[attr-defined]


def counted(record: KafkaRecord) -> int:
    return record.offset


Subscription("t", key=counted)  # type: ignore[arg-type]
Subscription("t", start="first")  # type: ignore[arg-type]
Subscription("t", on_failure="drop")  # type: ignore[arg-type]
Subscription("t", "orders")  # type: ignore[call-arg]
Subscription(topic=3)  # type: ignore[arg-type]


Schedule(5)  # type: ignore[arg-type]
Schedule("0 6 * * *", "UTC")  # type: ignore[call-arg]
Schedule("0 6 * * *", overlap="wait")  # type: ignore[arg-type]
Schedule("0 6 * * *", missed="none")  # type: ignore[arg-type]
Schedule.every(60)  # type: ignore[arg-type]


@service.handler(schedule="0 6 * * *")  # type: ignore[arg-type]
async def no_schedule(ctx: Context) -> None: ...


@service.handler(topic=3)  # type: ignore[arg-type]
async def no_topic(ctx: Context, order: str) -> None: ...


@carts.handler(topic="t", key=counted)  # type: ignore[call-arg]
async def no_key(ctx: ObjectContext, order: str) -> None: ...


async def refused(ctx: Context) -> None:
    number: str = await ctx.awakeable(int)  # type: ignore[assignment]
    await ctx.run("too few", takes_two, "o-1")  # type: ignore[arg-type]
    async with ctx.saga() as saga:
        saga.undo("too few", takes_two, "o-1")  # type: ignore[arg-type]
        saga.undo("wrong", takes_two, 1, 2)  # type: ignore[arg-type]
        saga.undo(takes_two, "o-1", 2)  # type: ignore[arg-type]
    with ctx.shield():  # type: ignore[attr-defined]
        pass
    await ctx.run("wrong", takes_two, 1, 2)  # type: ignore[arg-type,call-arg]
    ctx.publish("pack", number, awakeable="prom_1…")  # type: ignore[arg-type]
    ctx.awakeable(int, timeout=5)  # type: ignore[call-overload]
    ctx.awakeable(int, heartbeat_timeout=5)  # type: ignore[call-overload]
    ctx.awakeable(int, on_late="drop")  # type: ignore[call-overload]
    ctx.awakeable(int, on_late=pack)  # type: ignore[arg-type]
    ctx.sleep(timedelta(1), 2)  # type: ignore[call-arg]
    ctx.call(pack)  # type: ignore[arg-type]
    ctx.call(pack, 1)  # type: ignore[arg-type]
    ctx.call(no_handler, "o-1")  # type: ignore[arg-type]
    ctx.call("orders/pack", "o-1")  # type: ignore[call-overload]
    ctx.send(pack, "o-1", delay=5)  # type: ignore[call-overload]
    number = await ctx.call(pack, "o-1")  # type: ignore[arg-type]
    ctx.call(add, "x")  # type: ignore[arg-type]
    ctx.call(add, 1, key="c-7")  # type: ignore[arg-type]
    ctx.call(add, "x", key=7)  # type: ignore[call-overload]
    ctx.send(size)  # type: ignore[arg-type]
    ctx.get(COUNT)  # type: ignore[attr-defined]
    ctx.gather(1)  # type: ignore[call-overload]
    ctx.select(branch(1))  # type: ignore[type-var]
    ctx.gather(branch)  # type: ignore[call-overload]
    ctx.quorum(1, [1])  # type: ignore[arg-type]
    async with ctx.timeout(5):  # type: ignore[arg-type]
        pass
    with ctx.timeout(timedelta(1)):  # type: ignore[attr-defined]
        pass


def tested(harness: Harness) -> None:
    harness.call(pack, 1)  # type: ignore[arg-type]
    harness.call(add, "x")  # type: ignore[arg-type]
    harness.send(pack)  # type: ignore[arg-type]
    harness.send("orders/pack", "o-1")  # type: ignore[call-overload]
    harness.send(pack, "o-1", delay=5)  # type: ignore[call-overload]
    text: str = harness.call(pack, "o-1")  # type: ignore[assignment]
    harness.set_state(COUNT, "c-7", "many")  # type: ignore[misc]
    harness.advance(text)  # type: ignore[arg-type]
    harness.next_task("packing").payload_as("Parcel")  # type: ignore[arg-type]
    harness.next_task("packing").resolve(3, after=5)  # type: ignore[call-overload]
    harness.pause("orders/pack")  # type: ignore[call-overload]
    harness.pause(service, "c-7")  # type: ignore[call-overload]
    harness.seek("orders", "first")  # type: ignore[arg-type]


@service.handler("versions", version="2")  # type: ignore[arg-type]
async def asks_for_versions(ctx: Context) -> None:
    ctx.version("discount", "2")  # type: ignore[arg-type]
    ctx.version("discount")  # type: ignore[call-arg]
    await ctx.version("discount", 2)  # type: ignore[misc]


async def combined_badly(ctx: Context) -> None:
    number, called = ctx.awakeable(int), ctx.call(pack, "o-1")
    pair: tuple[str, int] = await ctx.gather(number, called)  # type: ignore[arg-type]
    three: tuple[int, int, int] = await ctx.gather(number, called)  # type: ignore[assignment]
    mixed: tuple[int, int] = await ctx.gather(number, branch(1))  # type: ignore[arg-type]
    either: str = await ctx.race(number, branch(1))  # type: ignore[arg-type]
    slept: int = await ctx.race(number, ctx.sleep(timedelta(1)))  # type: ignore[arg-type]
    several: list[str] = await ctx.quorum(1, [number, number])  # type: ignore[list-item]
    one: int = await ctx.quorum(1, [number, number])  # type: ignore[assignment]
    failed: tuple[int, ...] = await ctx.gather(*[number, number], return_exceptions=True)  # type: ignore[assignment]
    chosen: int = await ctx.select(number, number)  # type: ignore[assignment]
    ctx.race(1, number)  # type: ignore[call-overload]
    ctx.quorum("1", [number])  # type: ignore[arg-type]
    ctx.quorum([number], 1)  # type: ignore[arg-type]
    ctx.gather(number, called, cancel_losers="yes")  # type: ignore[call-overload]
    print(pair, three, mixed, either, slept, several, one, failed, chosen)


async def mapped_badly(ctx: Context) -> None:
    ctx.map(branch, ["o-1"])  # type: ignore[arg-type]
    ctx.map(counts, [1])  # type: ignore[arg-type]
    ctx.map(branch)  # type: ignore[call-arg]
    ctx.map(branch, [1], 2)  # type: ignore[call-arg]
    ctx.map(branch, [1], concurrency="2")  # type: ignore[arg-type]
    ctx.map(branch(1), [1])  # type: ignore[arg-type]
    await ctx.map(branch, [1])  # type: ignore[misc]
    numbers: list[int] = await ctx.gather(*ctx.map(branch, [1]))  # type: ignore[assignment]
    print(numbers)


def counts(n: int) -> int:
    return n


async def attaches_badly(ctx: Context) -> None:
    attached = ctx.attach("inv_1…", int)
    text: str = await attached  # type: ignore[assignment]
    text = await ctx.attach("inv_1…", int)  # type: ignore[assignment]
    called: Call[str] = ctx.attach("inv_1…", int)  # type: ignore[assignment]
    ctx.attach()  # type: ignore[call-overload]
    ctx.attach(1, int)  # type: ignore[call-overload]
    ctx.attach(ctx.send(pack, "o-1"), int)  # type: ignore[call-overload]
    ctx.attach("inv_1…", int, 2)  # type: ignore[call-overload]
    print(text, called)


async def watches_badly(ctx: Context) -> None:
    job = ctx.awakeable(str, heartbeat_timeout=timedelta(minutes=1))
    epoch: int = await job.progress(int)  # type: ignore[assignment]
    reported = job.progress(int)
    name: str | None = await reported  # type: ignore[assignment]
    name = await job.progress(int)  # type: ignore[assignment]
    job.progress(int, 0)  # type: ignore[call-overload]
    job.progress(type=int)  # type: ignore[call-overload]
    job.promise.progress(int)  # type: ignore[attr-defined]
    len(job.progress())  # type: ignore[arg-type]
    try:
        await job
    except TimedOut as late:
        epoch = late.progress(int)  # type: ignore[assignment]
        name = late.progress(int)  # type: ignore[assignment]
        late.progress(type=int)  # type: ignore[call-overload]
        await late.progress(int)  # type: ignore[misc]
    print(epoch, name)


worker = Worker("packer")


@worker.task("packing", keepalive="yes")  # type: ignore[arg-type]
async def packs(task: Task[int]) -> str:
    task.heartbeat(1, 2)  # type: ignore[call-arg]
    task.heartbeat(done=3)  # type: ignore[call-arg]
    at: int = task.heartbeat(4)  # type: ignore[assignment]
    return at  # type: ignore[return-value]


@worker.task("packing", "box", True)  # type: ignore[arg-type,call-arg]
async def packs_boxes(task: Task[int]) -> None: ...


@worker.task("packing", "bag", keepalive=1)  # type: ignore[arg-type]
async def packs_bags(task: Task[int]) -> None: ...


@worker.task("packing", "other")  # type: ignore[type-var]
async def packs_no_task(payload: int) -> None: ...


class SealsOnly:
    key_id: str | None = "2026"

    def seal(self, content: bytes, /, *, bound_to: str) -> bytes:
        return content


class OpensWithoutAKey(SealsOnly):
    def open(self, sealed: bytes, /, *, bound_to: str) -> bytes:
        return sealed


App("shop", services=[service], codec=SealsOnly())  # type: ignore[arg-type]
App("shop", services=[service], codec=OpensWithoutAKey())  # type: ignore[arg-type]
App("shop", services=[service], codec=KeyRing)  # type: ignore[arg-type]
App("shop", services=[service], codec=b"key")  # type: ignore[arg-type]
App("shop", [service])  # type: ignore[call-arg]
App("shop", services=[service, worker])  # type: ignore[list-item]
KeyRing(keys={"2026": b"key"})  # type: ignore[call-arg]
KeyRing("2026", {"2026": b"key"})  # type: ignore[call-arg]
KeyRing(current=2026, keys={})  # type: ignore[arg-type]
KeyRing(current="2026", keys={"2026": "key"})  # type: ignore[dict-item]
KeyRing(current="2026", keys=[b"key"])  # type: ignore[arg-type]
KeyRing(current=None, keys={}, lost=2025)  # type: ignore[arg-type]
KeyRing(current=None, keys={}, accepts_clear="no")  # type: ignore[arg-type]


def run_badly() -> None:
    run("orders/pack", "o-1")  # type: ignore[arg-type]
    run(pack, "o-1", workers=worker)  # type: ignore[arg-type]
    run(pack, "o-1", answers=[1])  # type: ignore[arg-type]
    run(pack, "o-1", answers={1: "packed"})  # type: ignore[dict-item]
    run(pack, "o-1", on_wait="resolve")  # type: ignore[arg-type]
    run(pack, "o-1", headers={"attempt": 1})  # type: ignore[dict-item]
    run(add, "x", key=7)  # type: ignore[arg-type]
    run(add, "x", key="c-7", state={"count": 1})  # type: ignore[dict-item]
    run(pack, "o-1", record=b"o-1")  # type: ignore[arg-type]
    run(pack, "o-1", scheduled_at=timedelta(1))  # type: ignore[arg-type]
    run(pack, "o-1", suspend="no")  # type: ignore[arg-type]
    run(pack, "o-1", retry=3)  # type: ignore[arg-type]
    run(pack, "o-1", seed="seed")  # type: ignore[arg-type]
    done = run(pack, "o-1")
    done.value = 1  # type: ignore[misc]
    done.duration + 1  # type: ignore[operator]
    done.result()  # type: ignore[attr-defined]


async def combines_several_types_badly(ctx: Context, in_place: bool) -> None:
    number, text, ratio = ctx.awakeable(int), branch(1), ctx.awakeable(float)
    five = await ctx.gather(number, text, number, text, number)
    six = await ctx.gather(number, text, number, text, number, ratio)
    swapped: tuple[int, str, int, str, str] = five  # type: ignore[assignment]
    shorter: tuple[int, str, int, str, int] = six  # type: ignore[assignment]
    five[5]  # type: ignore[misc]
    six[3].bit_length()  # type: ignore[attr-defined]
    several: tuple[int, ...] = await ctx.gather(number, text, number, text, number)  # type: ignore[assignment]
    print(swapped, shorter, several)

    first, second = await ctx.gather(number, text, return_exceptions=True)
    first.bit_length()  # type: ignore[union-attr]
    second.upper()  # type: ignore[union-attr]
    both: tuple[int, str] = await ctx.gather(number, text, return_exceptions=True)  # type: ignore[assignment]
    perhaps: tuple[int, str] = await ctx.gather(number, text, return_exceptions=in_place)  # type: ignore[assignment]
    last: int = (await ctx.gather(number, text, number, text, number, text, return_exceptions=True))[5]  # type: ignore[assignment]
    a, b = await ctx.gather(number, text, number)  # type: ignore[misc]
    print(both, perhaps, last, a, b)

    (await ctx.race(number, text, ratio, text)).bit_length()  # type: ignore[union-attr]
    (await ctx.any(number, text, ratio, text)).bit_length()  # type: ignore[union-attr]
    either: int | str | float = await ctx.race(number, text, ratio, ctx.sleep(timedelta(1)))  # type: ignore[arg-type]
    any_of_five: int | str | float = await ctx.any(number, text, ratio, text, ctx.sleep(timedelta(1)))  # type: ignore[arg-type]
    any_of_six: int | str = await ctx.any(number, text, number, text, number, ratio)  # type: ignore[arg-type]
    any_of_seven: str = await ctx.any(number, number, number, number, number, number, number)  # type: ignore[arg-type]
    print(either, any_of_five, any_of_six, any_of_seven)

    ctx.gather(number, text, number, text, number, 6)  # type: ignore[call-overload]
    ctx.gather(number, 2, return_exceptions=True)  # type: ignore[call-overload]
    ctx.gather(number, text, return_exceptions=1)  # type: ignore[call-overload]
    ctx.gather([number, number])  # type: ignore[call-overload]
    ctx.race([number, number])  # type: ignore[call-overload]
    ctx.race(number, text, number, text, number, branch)  # type: ignore[call-overload]
    ctx.any(number, text, number, 4)  # type: ignore[call-overload]
    ctx.race(number, text, return_exceptions=True)  # type: ignore[call-overload]
    ctx.any(number, text, return_exceptions=True)  # type: ignore[call-overload]
