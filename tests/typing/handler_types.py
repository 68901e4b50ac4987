"""What awaiting gives, as mypy and pyright see it (hard case 16). Checked, never run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, assert_type

from pydantic import BaseModel

from awakeables import Awakeable, Context, Durable, Promise, Serde, Service, Task, Verdict, Worker


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
async def runs(ctx: Context, order: str) -> Parcel:
    assert_type(ctx.run("sync", sync, order, 2), Durable[Parcel])
    assert_type(await ctx.run("sync", sync, order, 2), Parcel)
    assert_type(await ctx.run("coroutine", coroutine, order), Parcel)
    assert_type(await ctx.run("lambda", lambda: sync(order, 1)), Parcel)
    assert_type(await ctx.run("lambda around a coroutine", lambda: coroutine(order)), Parcel)
    assert_type(await ctx.run("partial", functools.partial(coroutine, order)), Parcel)
    assert_type(await ctx.run("nothing", nothing), None)
    return await ctx.run("coroutine", coroutine, order)


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
