"""Code that changes while invocations wait: versions of parts of a handler, and of a handler (H11)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import product
from typing import Any, NamedTuple
from unittest import mock

import pytest

from awakeables import App, Context, ObjectContext, Service, SharedContext, VirtualObject, Workflow
from awakeables.core.commands import Advance, Command
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Input, VersionChosen
from awakeables.core.outcomes import Resolution
from awakeables.core.replay import describe, markers_in
from awakeables.core.replies import Reply
from awakeables.core.versions import Versions, VersionUse
from awakeables.doctor.verification import verify
from awakeables.engine.engine import EngineSettings, HandlersRun
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.stateless import StatelessAttempts
from awakeables.store.memoryaudit import MemoryAudit
from awakeables.testing.bench import Bench, FragileStore, Process, quick, until
from unit.engine.harness import value

Function = Callable[..., Awaitable[Any]]

STEPS = 3


class Mode(NamedTuple):
    settings: EngineSettings
    handlers: HandlersRun


MODES = {
    "suspended": Mode(quick(), LocalAttempts),
    "live": Mode(quick(linger=timedelta(seconds=30)), LocalAttempts),
    "replayed": Mode(quick(always_suspend=True), LocalAttempts),
    "stateless": Mode(quick(), StatelessAttempts),
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    return MODES[request.param]


class Life:
    """One invocation, whose code is replaced while it waits."""

    def __init__(self, mode: Mode = MODES["suspended"]) -> None:
        self.bench = Bench(handlers=mode.handlers)
        self.id = ""
        self._settings = mode.settings
        self._answered = 0

    async def under(self, code: Function, answers: int = 0) -> Invocation:
        """Serve this code until the invocation has got so many answers more, and has come to rest."""
        async with self.bench.serving(self._settings, h=code) as process:
            if not self.id:
                self.id = await self.bench.begin(process, "h")
            else:
                await self._wakes(process)
            for _ in range(answers):
                await until(lambda: len(self.bench.awakeables(self.id)) > self._answered, "it waits")
                await self.settle(process)
            await self._rests()
        return self.row

    async def _wakes(self, process: Process) -> None:
        """It is replayed by today's code, though nothing has come for it."""
        if self.row.status == "paused":
            await process.api.resume(self.id)

    async def settle(self, process: Process) -> None:
        awakeable = self.bench.awakeables(self.id)[self._answered]
        await self.bench.settle(process, awakeable.id, self._answered)
        self._answered += 1

    async def _rests(self) -> None:
        def at_rest() -> bool:
            waits = len(self.bench.awakeables(self.id)) > self._answered
            return self.row.status in ("completed", "paused") or (self.row.status != "pending" and waits)

        await until(at_rest, "it is at rest")

    @property
    def row(self) -> Invocation:
        return self.bench.row(self.id)

    @property
    def failure(self) -> str:
        assert self.row.status == "paused", self.row.status
        assert self.row.failure is not None
        return f"{self.row.failure.kind}: {self.row.failure.message}"

    async def markers(self) -> dict[str, int]:
        """The markers of the journal, each of which is in it once, and in the row as well."""
        journal = await self.bench.journal(self.id)
        found = markers_in(journal)
        assert len(found) == sum(isinstance(entry, VersionChosen) for entry in journal)
        assert self.row.versions.markers == found
        return found

    @property
    def published(self) -> list[Any]:
        return self.bench.broker.values("routes")


# ── a change in the middle ──────────────────────────────────────────────────────────────────


def build(*, early: bool = False, current: int = 0, oldest: int = 1) -> Function:
    """A build of one handler, which asks behind each wait, and if `early` before the first one.

    With `current=0` it was written before there was anything to ask. What it does depends on nothing else.
    """

    async def handler(ctx: Context) -> list[int]:
        if early:
            ctx.version("route", current, oldest)
        seen = []
        for _ in range(STEPS):
            await ctx.awakeable(int)
            version = ctx.version("route", current, oldest) if current else 1
            ctx.publish("routes", version)
            seen.append(version)
        return seen

    return handler


BEFORE = build()
TODAY = build(early=True, current=2)


async def test_a_new_invocation_has_the_current_version(mode: Mode) -> None:
    life = Life(mode)
    row = await life.under(TODAY, STEPS)
    assert value(row) == life.published == [2] * STEPS
    assert await life.markers() == {"route": 2}


async def test_h11_1_one_that_waits_behind_the_place_has_version_1(mode: Mode) -> None:
    life = Life(mode)
    await life.under(BEFORE)
    assert life.row.versions_json is None
    row = await life.under(TODAY, STEPS)
    assert value(row) == life.published == [1] * STEPS
    assert await life.markers() == {"route": 1}


async def test_one_that_waits_before_the_place_has_the_current_version(mode: Mode) -> None:
    life = Life(mode)
    await life.under(BEFORE)
    row = await life.under(build(current=2), STEPS)
    assert value(row) == [2] * STEPS


async def test_h11_2_in_a_loop_the_first_answer_decides_all(mode: Mode) -> None:
    life = Life(mode)
    await life.under(BEFORE, 2)
    row = await life.under(build(current=2), STEPS - 2)
    assert value(row) == [1] * STEPS


async def test_a_version_that_is_raised_is_that_of_later_ones_only(mode: Mode) -> None:
    life, later = Life(mode), Life(mode)
    await life.under(TODAY, 1)
    third = build(early=True, current=3)
    assert value(await life.under(third, STEPS - 1)) == [2] * STEPS
    assert value(await later.under(third, STEPS)) == [3] * STEPS


async def test_code_that_no_longer_asks_passes_over_the_marker(mode: Mode) -> None:
    async def deleted(ctx: Context) -> list[int]:
        for _ in range(STEPS):
            await ctx.awakeable(int)
            ctx.publish("routes", 2)
        return [2] * STEPS

    life = Life(mode)
    await life.under(TODAY, 2)
    assert value(await life.under(deleted, STEPS - 2)) == [2] * STEPS
    assert await life.markers() == {"route": 2}


async def test_the_oldest_version_that_is_supported_pauses_older_ones(mode: Mode) -> None:
    life = Life(mode)
    await life.under(BEFORE)
    third = build(early=True, current=3, oldest=2)
    await life.under(third, 1)
    assert life.failure.startswith(
        "UnsupportedVersion: this invocation began with route 1, the code supports 2 and later: deploy code"
    )
    assert await life.markers() == {}, "nothing is written that the code does not support"
    assert value(await life.under(TODAY, STEPS - 1)) == [1] * STEPS


async def test_h11_3_a_version_that_the_code_does_not_know_pauses(mode: Mode) -> None:
    life = Life(mode)
    await life.under(build(early=True, current=3), 1)
    await life.under(TODAY, 1)
    assert "began with route 3, the code supports only versions up to 2" in life.failure
    assert value(await life.under(build(early=True, current=3), STEPS - 2)) == [3] * STEPS


async def test_h11_7_a_marker_stands_where_it_was_asked_for() -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("routes", 1)
        ctx.version("a", 1)
        ctx.publish("routes", 2)
        ctx.version("b", 2)
        await ctx.awakeable()

    life = Life()
    await life.under(handler)
    journal = await life.bench.journal(life.id)
    assert [describe(entry) for entry in journal[1:5]] == [
        "publish to 'routes'",
        "version of 'a': 1",
        "publish to 'routes'",
        "version of 'b': 2",
    ]


async def test_a_version_that_is_in_a_new_invocation_costs_no_commit_of_its_own() -> None:
    life = Life()
    await life.under(TODAY)
    assert life.row.version == 1


TURNS = 4
heard: list[int] = []
"""What the builds below were told."""


def turned(*, early: bool, current: int = 0) -> Function:
    """A build of another handler: some ask before the first wait, and all that ask do so behind the third."""

    async def handler(ctx: Context) -> list[int]:
        def ask() -> int:
            heard.append(ctx.version("route", current))
            return heard[-1]

        if early:
            ask()
        seen = []
        for place in range(TURNS):
            await ctx.awakeable(int)
            if place >= 2:
                seen.append(ask() if current else 1)
                ctx.publish("routes", seen[-1])
        return seen

    return handler


ORDERED = [turned(early=False)]
ORDERED += [turned(early=early, current=current) for current in (2, 3) for early in (True, False)]
"""Builds in the order in which they may be deployed: `current` is never lowered."""


def lives() -> list[tuple[int, ...]]:
    """Which build serves each turn; of two builds with one `current`, either may come first."""
    rank = [0, 1, 1, 2, 2]
    every = product(range(len(ORDERED)), repeat=TURNS)
    return [each for each in every if [rank[n] for n in each] == sorted(rank[n] for n in each)]


@pytest.mark.parametrize("lost", [None, "before", "after"])
async def test_whichever_builds_serve_an_invocation_it_has_one_version(mode: Mode, lost: str | None) -> None:
    """Its code is replaced at each wait; some commits are lost, or their acknowledgements.

    A build that asks where earlier code had come past tells 1; one that asks later only must tell the same.
    """
    for builds in lives()[:: 2 if lost is None else 7]:
        life = Life(mode)
        if lost is not None:
            lossy(life.bench.store, lost)
        told = set()
        for number in builds:
            heard.clear()
            row = await life.under(ORDERED[number], 1)
            told.update(heard[-1:])
        markers = await life.markers()
        assert set(value(row)) == set(life.published) == {markers.get("route", 1)}, builds
        assert told <= {markers.get("route")}, builds
        findings = await verify(MemoryAudit(life.bench.store.tables, clock=life.bench.clock), retention_ms=0)
        assert [str(each) for each in findings.violations] == []


def lossy(store: FragileStore, lost: str) -> None:
    """Every third commit is lost, or its acknowledgement."""
    commit = store.commit

    async def commit_or_lose(members: Any) -> Any:
        if store.tries % 3 == 1:
            setattr(store, f"lose_{lost}", 1)
        return await commit(members)

    store.commit = commit_or_lose  # type: ignore[method-assign]


async def test_a_process_that_dies_before_its_commit_has_chosen_nothing(mode: Mode) -> None:
    life = Life(mode)
    await life.under(BEFORE)
    store, stuck = life.bench.store, asyncio.Event()
    commit = store.commit

    async def commit_or_hang(members: Sequence[Command]) -> list[Reply]:
        if any(isinstance(each, Advance) for each in members):
            stuck.set()
            await asyncio.Event().wait()
        return await commit(members)

    with mock.patch.object(store, "commit", commit_or_hang):
        async with life.bench.serving(mode.settings, h=TODAY) as process:
            await life.settle(process)
            await stuck.wait()
    assert await life.markers() == {}
    later = build(current=3)  # it asks at another place only, which nothing has come past
    assert value(await life.under(later, STEPS - 1)) == [3] * STEPS


# ── restart ─────────────────────────────────────────────────────────────────────────────────


async def test_h11_6_an_invocation_that_is_restarted_begins_with_todays_version() -> None:
    life = Life()
    await life.under(TODAY, STEPS)
    async with life.bench.serving(quick(), h=build(early=True, current=3)) as process:
        new = await process.api.restart(life.id)
        await until(lambda: life.bench.awakeables(new), "it waits")
        assert life.bench.row(new).versions.markers == {"route": 3}


async def test_one_that_is_restarted_from_an_entry_has_the_versions_that_are_kept() -> None:
    life = Life()
    await life.under(TODAY, STEPS)
    journal = await life.bench.journal(life.id)
    (marker,) = (n for n, entry in enumerate(journal) if isinstance(entry, VersionChosen))
    third = build(early=True, current=3)
    async with life.bench.serving(quick(), h=third) as process:
        new = await process.api.restart(life.id, from_entry=marker + 2)
        await until(lambda: life.bench.awakeables(new), "it waits")
        assert life.bench.row(new).versions.markers == {"route": 2}


# ── a rewrite ───────────────────────────────────────────────────────────────────────────────


async def first(ctx: Context, n: int) -> str:
    return f"first {n} {await ctx.awakeable(str)}"


async def second(ctx: Context, n: int) -> str:
    ctx.publish("routes", n)
    return f"second {n} {await ctx.awakeable(str)}"


def shop(*versions: int) -> App:
    """A build whose handler has these versions; the first one was declared without a number."""
    orders = Service("orders")
    for version, function in ((1, first), (2, second)):
        if version in versions:
            orders.handler("fulfil", version=version)(function)
    return App("shop", services=[orders])


class Shop:
    """A bench, on which builds follow one another."""

    def __init__(self, *, shared: bool = False) -> None:
        self.bench = Bench(shared=shared)

    async def begin(self, *versions: int, content: bytes = b"7") -> str:
        async with self.bench.running(shop(*versions)) as process:
            invocation_id = await self.bench.begin(process, "fulfil", content)
            await self.bench.status(invocation_id, "suspended")
        return invocation_id

    async def answer(self, process: Process, invocation_id: str) -> None:
        await self.bench.settle(process, self.bench.awakeables(invocation_id)[0].id, "ok")


async def test_an_invocation_ends_with_the_version_that_it_began_with() -> None:
    orders = Shop()
    old = await orders.begin(1)
    new = await orders.begin(1, 2)
    async with orders.bench.running(shop(1, 2)) as process:
        for each in (old, new):
            await orders.answer(process, each)
        assert value(await orders.bench.status(old, "completed")) == "first 7 ok"
        assert value(await orders.bench.status(new, "completed")) == "second 7 ok"
    given = [(await orders.bench.journal(each))[0] for each in (old, new)]
    assert [each.version for each in given if isinstance(each, Input)] == [1, 2]
    assert orders.bench.row(old).versions_json is None
    assert orders.bench.row(new).versions == Versions(handler=2)


async def test_h11_5_one_whose_version_is_gone_is_paused_and_goes_on_when_it_is_back() -> None:
    orders = Shop()
    old = await orders.begin(1)
    async with orders.bench.running(shop(2)) as process:
        await orders.answer(process, old)
        row = await orders.bench.status(old, "paused")
        assert row.failure is not None
        assert (row.failure.kind, row.failure.message) == (
            "NotFound",
            "orders/fulfil has no version 1 any more, only 2: deploy code that declares it with version=1, "
            "then resume the invocation",
        )
        assert (await process.api.counts())["invocations_paused"] == 1
    async with orders.bench.running(shop(1, 2)) as process:
        await process.api.resume(old)
        assert value(await orders.bench.status(old, "completed")) == "first 7 ok"


async def test_one_whose_version_is_not_there_yet_is_paused() -> None:
    orders = Shop()
    new = await orders.begin(1, 2)
    async with orders.bench.running(shop(1)) as process:
        await orders.answer(process, new)
        row = await orders.bench.status(new, "paused")
        assert row.failure is not None
        assert "has no version 2 yet, only 1" in row.failure.message


async def test_beside_an_instance_that_has_the_version_others_leave_it_alone() -> None:
    """Hard case 13: while a rolling upgrade lasts, nothing is paused."""
    orders = Shop(shared=True)
    old = await orders.begin(1)
    async with orders.bench.running(shop(1, 2)), orders.bench.running(shop(2)) as process:
        await asyncio.sleep(2)  # each has had a heartbeat, and knows of the other
        await orders.answer(process, old)
        assert value(await orders.bench.status(old, "completed")) == "first 7 ok"


async def test_one_whose_version_no_instance_has_is_put_off_for_a_while() -> None:
    orders = Shop(shared=True)
    old = await orders.begin(1)
    async with orders.bench.running(shop(2)) as process:
        await orders.answer(process, old)
        await orders.bench.status(old, "backing-off")
    async with orders.bench.running(shop(1, 2)):
        assert value(await orders.bench.status(old, "completed")) == "first 7 ok"


async def test_h11_6_restart_begins_with_the_highest_version_unless_entries_are_kept() -> None:
    orders = Shop()
    old = await orders.begin(1)
    async with orders.bench.running(shop(1, 2)) as process:
        await orders.answer(process, old)
        await orders.bench.status(old, "completed")
        again = await process.api.restart(old)
        kept = await process.api.restart(old, from_entry=2)
        assert value(await orders.bench.status(kept, "completed")) == "first 7 ok"
        await orders.bench.status(again, "suspended")
    rows = [orders.bench.row(each) for each in (again, kept)]
    assert [row.versions.handler for row in rows] == [2, 1]
    assert orders.bench.broker.values("routes") == [7]


async def test_calls_and_sends_begin_the_highest_version_also_of_an_older_function() -> None:
    inner, outer = Service("inner"), Service("outer")

    async def doubled(ctx: Context, n: int) -> int:
        return 2 * n

    async def doubled_at_first(ctx: Context, n: int) -> int:
        return -n

    inner.handler("double", version=2)(doubled)
    inner.handler("double", version=1)(doubled_at_first)

    async def calls(ctx: Context) -> list[int]:
        return [await ctx.call(doubled, 1), await ctx.call(doubled_at_first, 2), await ctx.send(doubled, 3)]

    outer.handler("calls")(calls)
    bench = Bench(service="outer")
    async with bench.running(App("shop", services=[inner, outer])) as process:
        invocation_id = await bench.begin(process, "calls")
        assert value(await bench.status(invocation_id, "completed")) == [2, 4, 6]
    called = [row for row in bench.store.tables.invocations.values() if row.service == "inner"]
    assert [row.versions.handler for row in called] == [2, 2, 2]


@pytest.mark.parametrize("kind", ["exclusive", "shared", "run", "signal"])
async def test_handlers_of_objects_and_workflows_have_versions(kind: str) -> None:
    async def one(ctx: Any) -> str:
        await ctx.sleep(timedelta(minutes=1))
        return "one"

    async def two(ctx: Any) -> str:
        await ctx.sleep(timedelta(minutes=1))
        return "two"

    async def runs(ctx: ObjectContext) -> None:
        await ctx.sleep(timedelta(days=9))

    def app(*functions: Function) -> App:
        carts, flows = VirtualObject("carts"), Workflow("flows")
        for version, function in enumerate(functions, 1):
            if kind == "exclusive":
                carts.handler("h", version=version)(function)
            elif kind == "shared":
                carts.shared("h", version=version)(function)
            elif kind == "run":
                flows.run(version=version)(function)
            else:
                flows.handler("h", version=version)(function)
        if kind != "run":
            flows.run()(runs)
        return App("shop", services=[carts, flows])

    bench = Bench()
    name = "run" if kind == "run" else "h"
    begun = []
    for number, code in enumerate((app(one), app(one, two))):
        async with bench.running(code) as process:
            handler = code.handler("carts" if kind in ("exclusive", "shared") else "flows", name)
            if kind == "signal":
                await process.api.begin(code.handler("flows", "run"), None, key=str(number))
            begun.append((await process.api.begin(handler, None, key=str(number))).id)
            await bench.status(begun[-1], "suspended")
    async with bench.running(app(one, two)):
        told = [value(await bench.status(each, "completed")) for each in begun]
    assert told == ["one", "two"]


async def test_what_an_exclusive_handler_leaves_in_its_state_is_there_for_the_next_version() -> None:
    carts = VirtualObject("carts")
    items = carts.state("items", list[str], default=list)

    @carts.handler("add", version=1)
    async def added_at_first(ctx: ObjectContext, item: str) -> list[str]:
        ctx.set(items, [*await ctx.get(items), item])
        await ctx.awakeable()
        return await ctx.get(items)

    bench = Bench(service="carts")
    async with bench.running(App("shop", services=[carts])) as process:
        old = await bench.begin(process, "add", b'"a"', key="c")
        await bench.status(old, "suspended")

    @carts.handler(version=2)
    async def add(ctx: ObjectContext, item: str) -> list[str]:
        ctx.set(items, [*await ctx.get(items), item.upper()])
        return await ctx.get(items)

    @carts.shared()
    async def shown(ctx: SharedContext) -> list[str]:
        return await ctx.get(items)

    async with bench.running(App("shop", services=[carts])) as process:
        new = await bench.begin(process, "add", b'"b"', key="c")
        assert bench.row(new).status == "queued"
        await bench.settle(process, bench.awakeables(old)[0].id, None)
        assert value(await bench.status(new, "completed")) == ["a", "B"]
        assert value(await bench.status(old, "completed")) == ["a"]


# ── counts ──────────────────────────────────────────────────────────────────────────────────


def brief(uses: Sequence[VersionUse]) -> list[tuple[Any, ...]]:
    return [
        (each.handler, each.version, each.marker, each.marker_version, each.open, each.state) for each in uses
    ]


async def test_open_invocations_are_counted_by_their_versions() -> None:
    orders = Shop()
    old = await orders.begin(1)
    for _ in range(2):
        await orders.begin(1, 2)
    async with orders.bench.running(shop(1, 2)) as process:
        assert brief(await process.api.versions()) == [
            ("fulfil", 1, None, None, 1, "needed"),
            ("fulfil", 2, None, None, 2, "current"),
        ]
        oldest = [each.oldest_ms for each in await process.api.versions()]
        assert oldest[0] == orders.bench.row(old).created_ms
        await orders.answer(process, old)
        await orders.bench.status(old, "completed")
        assert brief(await process.api.versions())[0] == ("fulfil", 1, None, None, 0, "unused")
        assert (await process.api.versions())[0].oldest_ms is None


async def test_a_version_that_the_code_lacks_is_counted_as_missing() -> None:
    orders = Shop()
    await orders.begin(1)
    async with orders.bench.running(shop(2)) as process:
        assert brief(await process.api.versions()) == [
            ("fulfil", 1, None, None, 1, "missing"),
            ("fulfil", 2, None, None, 0, "current"),
        ]


async def test_markers_are_counted_with_those_that_have_none() -> None:
    bench = Bench()
    async with bench.serving(h=BEFORE) as process:
        before = await bench.begin(process, "h")
        await bench.status(before, "suspended")
    for current in (2, 4):
        async with bench.serving(h=build(early=True, current=current)) as process:
            for _ in range(current):
                await bench.status(await bench.begin(process, "h"), "suspended")
    async with bench.serving(h=build(early=True, current=4)) as process:
        assert brief(await process.api.versions()) == [
            ("h", 1, None, None, 7, "current"),
            ("h", 1, "route", 1, 0, "unused"),
            ("h", 1, "route", 2, 2, "needed"),
            ("h", 1, "route", 4, 4, "needed"),
            ("h", 1, "route", None, 1, "unasked"),
        ]
        await bench.settle(process, bench.awakeables(before)[0].id, 1)
        await until(lambda: bench.row(before).versions.markers, "it has come past the place")
        assert brief(await process.api.versions())[1] == ("h", 1, "route", 1, 1, "needed")
        assert len(await process.api.versions()) == 4


async def test_what_has_ended_needs_no_version() -> None:
    async def handler(ctx: Context) -> int:
        return ctx.version("route", 2)

    bench = Bench()
    async with bench.serving(h=handler) as process:
        invocation_id = await bench.begin(process, "h")
        assert (await bench.status(invocation_id, "completed")).result == Resolution.of_json(b"2")
        assert brief(await process.api.versions()) == [("h", 1, None, None, 0, "current")]
