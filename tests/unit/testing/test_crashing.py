"""A thorough test crashes each step before and after its commit, and its crashes are nobody's fault."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest

from awakeables import (
    App,
    Context,
    ObjectContext,
    RetryPolicy,
    Service,
    Subscription,
    TerminalError,
    VirtualObject,
)
from awakeables.core.commands import Advance, Command
from awakeables.core.replies import Reply
from awakeables.testing import Harness, Paused, run
from awakeables.testing.crashing import CrashingStore

SEEDS = range(4)

executed: Counter[str] = Counter()
service = Service("steps")
counters = VirtualObject("counters")
COUNT = counters.state("count", int, default=int)


def act(name: str) -> int:
    executed[name] += 1
    return 1


@service.handler()
async def child(ctx: Context, n: int) -> int:
    await ctx.run("a", act, f"child {n} a")
    await ctx.run("b", act, f"child {n} b")
    return n


@service.handler()
async def parent(ctx: Context) -> int:
    await ctx.run("x", act, "parent x")
    ended = await ctx.gather(*(ctx.call(child, n) for n in range(3)))
    await ctx.run("y", act, "parent y")
    await ctx.run("z", act, "parent z")
    return sum(ended)


@service.handler(topic=Subscription("begins", name="begins"))
async def publishes(ctx: Context, n: int) -> int:
    for name in ("one", "two"):
        answer = ctx.awakeable(str)
        ctx.publish("tasks", n, awakeable=answer, task="do")
        await answer
        await ctx.run(name, act, f"publishes {name}")
    return n


@counters.handler()
async def count(ctx: ObjectContext) -> int:
    ctx.set(COUNT, await ctx.get(COUNT) + 1)
    ctx.send(child, 9)
    return await ctx.get(COUNT)


@service.handler()
async def flaky(ctx: Context) -> int:
    return await ctx.run("flaky", act, "flaky")


@service.handler()
async def retried(ctx: Context) -> int:
    few = RetryPolicy(initial_interval=timedelta(seconds=1), max_attempts=3)
    return await ctx.run("flaky", act, "flaky", retry=few)


async def slowly() -> str:
    await asyncio.sleep(3600)
    return "done"


@service.handler()
async def slow(ctx: Context) -> str:
    return await ctx.run("slow", slowly)


app = App("steps", services=[service, counters])


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """The steps that were committed, by their invocation and the length of its journal."""
    found: set[tuple[str, int]] = set()
    commit = CrashingStore.commit

    async def noting(self: CrashingStore, commands: Sequence[Command]) -> list[Reply]:
        ids = [each.invocation_id for each in commands if isinstance(each, Advance)]
        found.update((each, len(self.tables.chunks(each))) for each in ids)
        return await commit(self, commands)

    monkeypatch.setattr(CrashingStore, "commit", noting)
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("suspend", [True, False])
def test_each_step_crashes_once_before_and_once_after_its_commit(
    steps: set[tuple[str, int]], suspend: bool, seed: int
) -> None:
    executed.clear()
    with Harness(app, thorough=True, suspend=suspend, seed=seed) as harness:
        harness.on_task("do", "done")
        assert harness.call(parent) == 3
        assert harness.call(count, key="k") == 1
        harness.produce("begins", 7)
        assert [each.result() for each in harness.invocations(publishes)] == [7]
        assert len(harness.published) == 2
        assert len(harness.invocations()) == 7
        crashes = sum("crashed" in line for line in harness.describe().splitlines())
        store = harness._service.store
        assert isinstance(store, CrashingStore)
        assert {step[:2] for step in store._crashed if not step[2]} == steps
        assert {step[:2] for step in store._crashed if step[2]} == steps
        assert crashes <= 2 * len(steps)
    assert min(executed.values()) > 1


@pytest.mark.parametrize("thorough", [False, True])
def test_crashes_of_the_test_are_not_the_fault_of_what_runs_meanwhile(thorough: bool) -> None:
    with Harness(app, thorough=thorough) as harness:
        running = harness.send(slow)
        for _ in range(7):
            harness.crash()
            harness.call(child, 1)
        assert running.status == "running"
        assert running.result() == "done"


@pytest.mark.parametrize("suspend", [True, False])
@pytest.mark.parametrize("thorough", [False, True])
def test_a_handler_fails_as_often_as_the_test_says(thorough: bool, suspend: bool) -> None:
    with Harness(app, thorough=thorough, suspend=suspend) as harness:
        harness.fail("flaky", ConnectionError("down"), times=2)
        assert harness.call(flaky) == 1
        harness.fail("flaky", ConnectionError("down"), times=3)
        with pytest.raises(Paused, match="down"):
            harness.call(flaky)
        harness.fail("flaky", ConnectionError("down"), times=2)
        assert harness.call(retried) == 1
        harness.fail("flaky", ConnectionError("down"), times=3)
        with pytest.raises(TerminalError, match="failed 3 times"):
            harness.call(retried)
        assert harness.call(retried) == 1


def test_run_crashes_at_each_step_too() -> None:
    executed.clear()
    assert run(child, 5, thorough=True).value == 5
    assert min(executed["child 5 a"], executed["child 5 b"]) > 1
