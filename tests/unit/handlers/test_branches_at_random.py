"""Programs of branches made at random: they end in the same way however often they are interrupted."""

from __future__ import annotations

import random
import zlib
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import pytest

from awakeables import Cancelled, Context, Durable, RetryPolicy, Service, TerminalError, TimedOut
from awakeables.handlers.branches import Branches, Fiber
from awakeables.handlers.stateless import StatelessAttempts
from awakeables.testing import Answer, run, simulated
from support.effort import some

SEEDS = some(12)
MANY_TRIES = RetryPolicy(initial_interval=timedelta(milliseconds=1), max_attempts=30)

Step: TypeAlias = tuple[str, Any]
"""What to do, and its argument: a number, or the programs of branches or of a block."""

SIMPLE = ("sleep", "ask", "share", "act", "act twice", "now", "publish", "cancel")
BLOCKS = ("timeout", "shield", "try")
COMBINED = ("gather", "settled", "race", "any", "quorum", "map", "completed", "select", "leave")


def program(chance: random.Random, depth: int = 0) -> list[Step]:
    kinds = SIMPLE if depth == 3 else (*SIMPLE, *BLOCKS, *COMBINED, *COMBINED)
    steps: list[Step] = []
    for kind in chance.choices(kinds, k=chance.randint(1, 4)):
        if kind in BLOCKS:
            steps.append((kind, program(chance, depth + 1)))
        elif kind in COMBINED:
            steps.append((kind, [program(chance, depth + 1) for _ in range(chance.randint(1, 3))]))
        else:
            steps.append((kind, chance.randint(1, 9)))
    return [*steps, ("fail", 0)] if chance.random() < 0.15 else steps


def instant(seconds: float, path: str) -> timedelta:
    """About as many seconds; no two are the same."""
    return timedelta(seconds=seconds, milliseconds=zlib.crc32(path.encode()) % 997)


class Program:
    """Performs a program in a handler.

    Attributes:
        acted: The actions that were executed, by where they stand.
        shared: An awakeable that any branch may await.
        left: Futures that nobody awaits, and anybody may cancel.
    """

    def __init__(self, ctx: Context, acted: list[str]) -> None:
        self.ctx = ctx
        self.acted = acted
        self.shared = ctx.awakeable(int)
        ctx.publish("tasks", "shared", awakeable=self.shared)
        self.left: list[Durable[Any]] = []

    async def perform(self, steps: Sequence[Step], path: str) -> list[Any]:
        seen: list[Any] = []
        for place, (kind, given) in enumerate(steps):
            here = f"{path}.{place}"
            if kind in COMBINED:
                await self._combine(kind, given, here, seen)
            elif kind in BLOCKS:
                await self._block(kind, given, here, seen)
            else:
                await self._step(kind, given, here, seen)
        return seen

    async def _step(self, kind: str, n: int, here: str, seen: list[Any]) -> None:
        ctx = self.ctx
        match kind:
            case "sleep":
                await ctx.sleep(instant(n, here))
            case "ask":
                awakeable = ctx.awakeable(int)
                ctx.publish("tasks", here, awakeable=awakeable)
                seen.append(await awakeable)
            case "share":
                seen.append(await self.shared)
            case "act":
                await ctx.run(here, self._acts, here)
            case "act twice":
                await ctx.run(here, self._fails_at_first, f"twice {here}", retry=MANY_TRIES)
            case "now":
                ctx.now()
            case "publish":
                ctx.publish("notices", here)
            case "cancel":
                for future in self.left[: n % 3]:
                    future.cancel()
            case _:
                raise TerminalError(f"failed at {here}")

    async def _acts(self, here: str) -> None:  # not in a thread, where they would end in any order
        self.acted.append(here)

    async def _fails_at_first(self, here: str) -> None:
        self.acted.append(here)
        if self.acted.count(here) == 1:
            raise ConnectionError("the first call fails")

    async def _block(self, kind: str, steps: Sequence[Step], here: str, seen: list[Any]) -> None:
        match kind:
            case "timeout":
                try:
                    async with self.ctx.timeout(instant(len(here) % 9, here)):
                        seen += await self.perform(steps, here)
                except TimedOut:
                    seen.append("timed out")
            case "shield":
                async with self.ctx.shield():
                    seen += await self.perform(steps, here)
            case _:
                try:
                    seen += await self.perform(steps, here)
                except TerminalError as error:
                    await self.ctx.sleep(instant(0.5, here))
                    seen.append(shown(error))

    async def _combine(  # noqa: C901 - a case per combinator
        self, kind: str, programs: Sequence[Any], here: str, seen: list[Any]
    ) -> None:
        ctx, losers = self.ctx, len(here) % 2 == 0

        async def work(place: int) -> list[Any]:
            return await self.perform(programs[place], f"{here}/{place}")

        def works() -> list[Coroutine[Any, Any, list[Any]]]:
            return [work(place) for place in range(len(programs))]

        def begun(at_once: int | None = None) -> list[Durable[list[Any]]]:
            return ctx.map(work, range(len(programs)), concurrency=at_once)

        future: Durable[Any]
        match kind:
            case "gather":
                future = ctx.gather(*works(), cancel_losers=losers)
            case "settled":
                future = ctx.gather(*works(), return_exceptions=True)
            case "race":
                future = ctx.race(*works(), cancel_losers=losers)
            case "any":
                future = ctx.any(*works(), cancel_losers=losers)
            case "quorum":
                future = ctx.quorum(max(1, len(programs) - 1), works(), cancel_losers=losers)
            case "map":
                future = ctx.gather(*begun(1 if losers else None), return_exceptions=True)
            case "select":
                future = await ctx.select(*begun())
            case "leave":
                self.left += begun(2)
                return
            case _:
                async for ended in ctx.as_completed(begun()):
                    seen.append(shown(ended.exception()))
                return
        try:
            seen.append(shown(await future))
        except TerminalError as error:
            if isinstance(error, Cancelled) and error.own:
                raise
            seen.append(shown(error))


def shown(value: Any) -> Any:
    if isinstance(value, TerminalError):
        return type(value).__name__
    return [shown(each) for each in value] if isinstance(value, list | tuple) else value


def ended(seed: int, *, suspend: bool, thorough: bool = False) -> tuple[Any, list[str]]:
    """What the program of a seed has seen, and what it has done more than once without need."""
    acted: list[str] = []
    service = Service("programs")

    @service.handler()
    async def inner(ctx: Context) -> list[Any]:
        try:
            return await Program(ctx, acted).perform(program(random.Random(seed)), "")
        except TerminalError as error:
            return ["failed", str(error)]

    @service.handler()
    async def outer(ctx: Context) -> list[Any]:
        call = ctx.call(inner)
        if seed % 3 == 0:  # which a process that crashes again and again would do at another point
            with_limit = ctx.sleep(timedelta(seconds=3 + seed % 4, microseconds=500_000))
            if await ctx.select(call, with_limit) is with_limit:
                call.cancel()
        result: list[Any] = await ctx.gather(call, return_exceptions=True)  # type: ignore[assignment]
        return [shown(each) for each in result]

    told = run(
        outer,
        answers={"tasks": lambda task: Answer(7, after=instant(len(task.payload) % 9, task.payload))},
        retry=MANY_TRIES,
        suspend=suspend,
        thorough=thorough,
    )
    again = [here for here in set(acted) if not here.startswith("twice") and acted.count(here) > 1]
    return told.value, again


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_program_ends_as_if_it_had_not_been_interrupted(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chances = noted_chances(monkeypatch)
    whole = [ended(seed, suspend=False), ended(seed, suspend=True)]
    crashed = [ended(seed, suspend=True, thorough=True)] if seed % 3 else []
    monkeypatch.setattr(simulated, "LocalAttempts", StatelessAttempts)
    whole.append(ended(seed, suspend=False))
    assert [again for _, again in whole] == [[], [], []]
    if not chances:
        assert all(result == whole[0][0] for result, _ in [*whole, *crashed])


def noted_chances(monkeypatch: pytest.MonkeyPatch) -> list[Fiber]:
    """Note the branches that are cancelled while they await actions: whether these are executed is chance."""
    noted: list[Fiber] = []
    interrupt = Branches._interrupt

    def interrupt_and_note(branches: Branches, fiber: Fiber) -> None:
        interrupt(branches, fiber)
        if fiber in branches.pending.values():
            noted.append(fiber)

    monkeypatch.setattr(Branches, "_interrupt", interrupt_and_note)
    return noted
