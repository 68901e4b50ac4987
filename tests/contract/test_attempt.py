"""What every adapter of `Attempt` must do, whether it keeps the handler or rebuilds it for each call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from awakeables import App, Context, RetryPolicy, Service, TerminalError
from awakeables.core.ids import Ids
from awakeables.core.journal import (
    CancellationRaised,
    Entry,
    Input,
    OutcomeDelivered,
    RunAttemptFailed,
    RunEnded,
    RunRequested,
)
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution
from awakeables.errors import Cancelled, HandlerMisuse
from awakeables.handlers.attempt import (
    MAX_TRACEBACK_CHARACTERS,
    Attempts,
    AwakeableWait,
    Broken,
    Crashed,
    Finished,
    Left,
    News,
    Origin,
    Progress,
    RunWait,
    SettleWait,
    TimerWait,
    Wait,
)
from awakeables.handlers.execution import World
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.stateless import StatelessAttempts
from awakeables.remote.functions import Functions
from awakeables.testing.loop import InlineExecutor, SeededEntropy
from support.functions import ServedFunctions, over_http

NOW_MS = 1_800_000_000_000
ONE = Resolution.of_json(b"1")
TWO = Resolution.of_json(b"2")

Function = Callable[[Context], Awaitable[Any]]
Opened = Callable[..., "Owner"]


class Clock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic(self) -> float:
        return 0.0


class Owner:
    """Calls an attempt as its owner does; both messages make a round trip through JSON each time."""

    def __init__(self, attempts: Attempts, history: Sequence[Entry]) -> None:
        self.history = list(history)
        self.ready = asyncio.Event()
        self.waits: tuple[Wait, ...] = ()
        origin = Origin(invocation_id="inv_1", service="s", handler="h")
        self.attempt = attempts.open(origin, history, self.ready.set)

    async def advance(self, *arrived: tuple[int, Outcome], durable: int = 0, **news: Any) -> Progress:
        told = News(**{"now_ms": NOW_MS} | news, durable=durable, arrived=arrived)
        progress = self.attempt.advance(msgspec.json.decode(msgspec.json.encode(told), type=News))
        if not isinstance(progress, Progress):
            progress = await progress
        again = msgspec.json.decode(msgspec.json.encode(progress), type=Progress)
        assert again == progress
        self.history += progress.entries
        if again.waits_on:
            received = {entry.of for entry in again.entries if isinstance(entry, OutcomeDelivered)}
            received.update(again.no_longer)
            left = {wait.index: wait for wait in self.waits if wait.index not in received}
            left.update((wait.index, wait) for wait in again.blocked_on)
            whole = tuple(left.values())
            again = msgspec.structs.replace(again, waits_on=False, no_longer=(), blocked_on=whole)
        self.waits = again.blocked_on
        return again

    async def until_it_waits(self, progress: Progress) -> Progress:
        """Go on while an action is being executed, or its outcome is to be handed out."""
        entries = progress.entries
        while progress.ended is None and (progress.running or not progress.blocked_on):
            if progress.running:
                await self.ready.wait()
                self.ready.clear()
            progress = await self.advance(durable=len(self.history))
            entries += progress.entries
        return msgspec.structs.replace(progress, entries=entries)


def opened_by(adapter: Callable[..., Attempts], function: Function, history: Sequence[Entry]) -> Owner:
    """An attempt of this handler along a journal; by default a new one."""
    service = Service("s")
    service.handler("h")(function)
    app = App("app", services=[service])
    clock = Clock()
    ids = Ids(clock.now_ms, SeededEntropy(0).bytes)
    world = World(clock=clock, ids=ids, app="app", reply_to="app.completions")
    given = Input(service="s", handler="h", seed="1", at_ms=NOW_MS)
    return Owner(adapter(app, world, InlineExecutor()), history or [given])


@pytest.fixture(scope="module")
def functions() -> Iterator[ServedFunctions]:
    with ServedFunctions().running() as served:
        yield served


@pytest.fixture(params=["local", "stateless", "http", pytest.param("socket", marks=pytest.mark.slow)])
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Opened]:
    made: list[Functions] = []
    match request.param:
        case "local":
            adapter: Callable[..., Attempts] = LocalAttempts
        case "stateless":
            adapter = StatelessAttempts
        case "http":
            adapter = over_http(made)
        case _:
            adapter = over_http(made, request.getfixturevalue("functions"))

    def make(function: Function, history: Sequence[Entry] = ()) -> Owner:
        return opened_by(adapter, function, history)

    yield make
    for functions in made:
        await functions.close()


async def any_of(ctx: Context, *awakeables: Any) -> int:
    """The place of the first of these that is answered."""
    return awakeables.index(await ctx.select(*awakeables))


async def test_nothing_of_the_handler_runs_before_it_is_called(opened: Opened) -> None:
    ran = []

    async def handler(ctx: Context) -> None:
        ran.append(1)

    owner = opened(handler)
    assert ran == []
    assert (await owner.advance()).ended == Finished(result=Resolution.of_json(b"null"))
    assert ran == [1]


async def test_it_stops_at_a_wait_with_all_that_came_before(opened: Opened) -> None:
    async def handler(ctx: Context) -> Any:
        answer = ctx.awakeable()
        ctx.publish("tasks", {"a": 1}, awakeable=answer)
        return await answer

    progress = await opened(handler).advance()
    awakeable_id = progress.awakeables[0].id
    assert [msgspec.to_builtins(entry)["k"] for entry in progress.entries] == ["awakeable", "publish"]
    assert [effect.topic for effect in progress.effects] == ["tasks"]
    assert progress.blocked_on == (AwakeableWait(index=1, awakeable_id=awakeable_id),)
    assert (progress.ended, progress.running) == (None, 0)


async def test_an_outcome_lets_it_go_on_and_is_journaled(opened: Opened) -> None:
    async def handler(ctx: Context) -> Any:
        return [await ctx.awakeable(), await ctx.awakeable()]

    owner = opened(handler)
    await owner.advance()
    progress = await owner.advance((1, ONE))
    assert progress.entries[0] == OutcomeDelivered(of=1, outcome=ONE)
    assert [wait.index for wait in progress.blocked_on] == [3]
    progress = await owner.advance((3, TWO))
    assert progress.ended == Finished(result=Resolution.of_json(b"[1,2]"))
    assert progress.open_awakeables == ()


async def test_of_a_set_of_waits_any_one_lets_it_go_on(opened: Opened) -> None:
    async def handler(ctx: Context) -> Any:
        return await any_of(ctx, *[ctx.awakeable() for _ in range(3)])

    owner = opened(handler)
    progress = await owner.advance()
    assert [wait.index for wait in progress.blocked_on] == [1, 2, 3]
    progress = await owner.advance((3, ONE))
    assert progress.ended == Finished(result=TWO)
    assert progress.open_awakeables == tuple(owner.history[n].id for n in (1, 2))  # type: ignore[union-attr]


async def test_one_outcome_is_handed_out_for_each_call_the_first_that_arrived(opened: Opened) -> None:
    async def handler(ctx: Context) -> Any:
        first, second = ctx.awakeable(), ctx.awakeable()
        winner = await any_of(ctx, first, second)
        return [winner, await first, await second]

    owner = opened(handler)
    await owner.advance()
    progress = await owner.advance((2, TWO), (1, ONE))
    assert progress.entries == (OutcomeDelivered(of=2, outcome=TWO),)
    assert [wait.index for wait in progress.blocked_on] == [1]
    progress = await owner.advance((1, ONE))
    assert progress.ended == Finished(result=Resolution.of_json(b"[1,1,2]"))


async def test_what_it_does_not_wait_for_is_not_handed_out(opened: Opened) -> None:
    async def handler(ctx: Context) -> Any:
        first, second = ctx.awakeable(), ctx.awakeable()
        return [await first, await second]

    owner = opened(handler)
    await owner.advance()
    progress = await owner.advance((2, TWO))
    assert (progress.entries, [wait.index for wait in progress.blocked_on]) == ((), [1])


async def test_a_journal_is_repeated_and_asks_for_nothing_new(opened: Opened) -> None:
    async def handler(ctx: Context) -> Any:
        return [await ctx.awakeable(), await ctx.awakeable()]

    owner = opened(handler)
    await owner.advance()
    before = await owner.advance((1, ONE))
    again = opened(handler, owner.history)
    progress = await again.advance()
    assert (progress.entries, progress.effects, progress.awakeables) == ((), (), ())
    assert progress.blocked_on == before.blocked_on


async def test_code_that_does_not_repeat_its_journal_is_broken(opened: Opened) -> None:
    async def handler(ctx: Context) -> None:
        await ctx.sleep(timedelta(seconds=1))

    async def other(ctx: Context) -> None:
        await ctx.awakeable()

    owner = opened(handler)
    await owner.advance()
    ended = (await opened(other, owner.history).advance()).ended
    assert isinstance(ended, Broken)
    assert ended.kind == "ReplayMismatch"


async def test_timers_and_completions_of_its_own_are_the_owner_s(opened: Opened) -> None:
    async def handler(ctx: Context) -> Any:
        other = ctx.awakeable()
        await ctx.sleep(timedelta(seconds=2))
        return (await ctx.resolve_awakeable(other.id, 5)).kind

    owner = opened(handler)
    progress = await owner.advance()
    assert progress.blocked_on == (TimerWait(index=2, until_ms=NOW_MS + 2000),)
    progress = await owner.advance((2, Resolution.of_json(b"null")))
    wait = progress.blocked_on[0]
    assert isinstance(wait, SettleWait)
    assert wait.answer == Resolution.of_json(b"5")


class TestActions:
    async def test_one_starts_once_its_entry_is_durable(self, opened: Opened) -> None:
        ran = []

        async def handler(ctx: Context) -> Any:
            return await ctx.run("act", lambda: ran.append(1))

        owner = opened(handler)
        progress = await owner.advance()
        assert progress.blocked_on == (RunWait(index=1, name="act"),)
        assert (await owner.advance(durable=1)).running == 0
        await asyncio.sleep(0.001)
        assert ran == []
        await owner.until_it_waits(await owner.advance(durable=2))
        assert ran == [1]

    async def test_its_outcome_is_journaled_before_the_handler_goes_on(self, opened: Opened) -> None:
        went_on = []

        async def handler(ctx: Context) -> Any:
            value = await ctx.run("act", lambda: 7)
            went_on.append(value)
            return value

        owner = opened(handler)
        await owner.advance()
        progress = await owner.advance(durable=2)
        while progress.running:
            await owner.ready.wait()
            owner.ready.clear()
            progress = await owner.advance(durable=2)
        assert progress.entries == (OutcomeDelivered(of=1, outcome=Resolution.of_json(b"7")),)
        assert (progress.blocked_on, progress.ended, went_on) == ((), None, [])
        progress = await owner.advance(durable=3)
        assert (progress.ended, went_on) == (Finished(result=Resolution.of_json(b"7")), [7])

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_one_that_fails_is_tried_again_when_it_is_due(self, opened: Opened, is_async: bool) -> None:
        tries = []

        def act() -> int:
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionError("down")
            return len(tries)

        async def act_async() -> int:
            return act()

        async def handler(ctx: Context) -> Any:
            policy = RetryPolicy(initial_interval=timedelta(seconds=1))
            return await ctx.run("act", act_async if is_async else act, retry=policy)

        owner = opened(handler)
        await owner.advance()
        progress = await owner.until_it_waits(await owner.advance(durable=2))
        assert isinstance(progress.entries[-1], RunAttemptFailed)
        assert progress.blocked_on == (RunWait(index=1, name="act", due_ms=NOW_MS + 1000),)
        await owner.advance(durable=3)
        assert len(tries) == 1
        await owner.until_it_waits(await owner.advance(durable=3, now_ms=NOW_MS + 1000))
        progress = await owner.until_it_waits(await owner.advance(durable=4, now_ms=NOW_MS + 9000))
        assert progress.ended == Finished(result=Resolution.of_json(b"3"))

    async def test_one_that_fails_without_a_policy_fails_the_attempt(self, opened: Opened) -> None:
        async def handler(ctx: Context) -> Any:
            def act() -> None:
                raise ConnectionError("down")

            return await ctx.run("act", act)

        owner = opened(handler)
        await owner.advance()
        progress = await owner.until_it_waits(await owner.advance(durable=2))
        assert is_crash(progress, "ConnectionError", "down", of=(1,))

    async def test_one_that_fails_ends_the_attempt_once_those_beside_it_have_ended(
        self, opened: Opened
    ) -> None:
        ran: list[str] = []

        async def fails() -> None:
            ran.append("fails")
            raise ConnectionError("down")

        async def takes_time(name: str) -> str:
            await asyncio.sleep(0.01)
            ran.append(name)
            return name

        async def handler(ctx: Context) -> Any:
            acts = [ctx.run(name, takes_time, name) for name in "ab"]
            return await ctx.gather(ctx.run("fails", fails), *acts)

        owner = opened(handler)
        await owner.advance()
        progress = await owner.until_it_waits(await owner.advance(durable=4))
        assert is_crash(progress, "ConnectionError", "down", of=(3,))
        assert progress.entries == (
            RunEnded(of=1, outcome=Resolution.of_json(b'"a"')),
            RunEnded(of=2, outcome=Resolution.of_json(b'"b"')),
        )
        again = opened(handler, owner.history)
        await again.until_it_waits(await again.advance())
        await again.until_it_waits(await again.advance(durable=len(again.history)))
        assert sorted(ran) == ["a", "b", "fails", "fails"]

    async def test_one_that_is_recorded_is_never_executed_again(self, opened: Opened) -> None:
        """J3."""
        ran = []

        async def handler(ctx: Context) -> Any:
            await ctx.run("act", lambda: ran.append(1))
            return await ctx.awakeable()

        owner = opened(handler)
        await owner.advance()
        await owner.until_it_waits(await owner.advance(durable=2))
        again = opened(handler, owner.history)
        await again.until_it_waits(await again.advance(durable=len(owner.history)))
        assert ran == [1]


class TestCancellation:
    async def test_it_is_raised_once_before_any_outcome(self, opened: Opened) -> None:
        async def handler(ctx: Context) -> Any:
            first = ctx.awakeable()
            try:
                await first
            except Cancelled:
                return [await first, await ctx.awakeable()]

        owner = opened(handler)
        await owner.advance()
        progress = await owner.advance((1, ONE), cancel=True)
        assert [type(entry) for entry in progress.entries] == [CancellationRaised]
        progress = await owner.advance((1, ONE), cancel=True)
        assert progress.entries[0] == OutcomeDelivered(of=1, outcome=ONE)
        progress = await owner.advance((4, TWO), cancel=True)
        assert progress.ended == Finished(result=Resolution.of_json(b"[1,2]"))

    async def test_it_cancels_what_is_open_and_not_what_is_created_afterwards(self, opened: Opened) -> None:
        async def handler(ctx: Context) -> Any:
            try:
                await ctx.awakeable()
            except Cancelled:
                await ctx.awakeable()

        owner = opened(handler)
        first = (await owner.advance()).awakeables[0].id
        progress = await owner.advance(cancel=True)
        assert progress.cancels == (first,)
        assert len(progress.awakeables) == 1
        assert (await owner.advance(cancel=True)).cancels == ()

    async def test_an_action_that_has_not_begun_is_not_begun(self, opened: Opened) -> None:
        ran = []

        async def handler(ctx: Context) -> Any:
            await ctx.run("act", lambda: ran.append(1))

        owner = opened(handler)
        await owner.advance()
        progress = await owner.advance(durable=2, cancel=True)
        assert progress.ended == Finished(result=Cancellation(reason="the invocation was cancelled"))
        assert ran == []


class TestLettingGo:
    async def test_it_unwinds_the_handler_and_names_what_is_open(self, opened: Opened) -> None:
        left = []

        async def handler(ctx: Context) -> Any:
            try:
                await ctx.awakeable()
            finally:
                left.append(1)

        owner = opened(handler)
        awakeable_id = (await owner.advance()).awakeables[0].id
        progress = await owner.advance(stop=True)
        assert (progress.ended, progress.open_awakeables) == (Left(), (awakeable_id,))
        assert left

    async def test_what_is_handed_out_by_the_same_call_is_journaled(self, opened: Opened) -> None:
        async def handler(ctx: Context) -> Any:
            return await ctx.awakeable()

        owner = opened(handler)
        await owner.advance()
        progress = await owner.advance((1, ONE), stop=True)
        assert (progress.entries, progress.ended) == ((OutcomeDelivered(of=1, outcome=ONE),), Left())
        again = await opened(handler, owner.history).advance()
        assert again.ended == Finished(result=ONE)

    async def test_a_handler_that_will_not_leave_is_broken(self, opened: Opened) -> None:
        async def handler(ctx: Context) -> Any:
            try:
                await ctx.awakeable()
            except BaseException:
                return "never mind"

        owner = opened(handler)
        ended = (await owner.advance()).ended or (await owner.advance(stop=True)).ended
        assert isinstance(ended, Broken)
        assert "caught Suspended" in ended.message


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (TerminalError("no", code=409), Finished(result=Rejection(reason="no", code=409))),
        (HandlerMisuse("wrong"), Broken(kind="HandlerMisuse", message="wrong")),
    ],
    ids=["terminal", "author"],
)
async def test_an_error_ends_it_as_what_it_is(opened: Opened, error: Exception, ended: object) -> None:
    async def handler(ctx: Context) -> None:
        raise error

    assert (await opened(handler).advance()).ended == ended


def is_crash(progress: Progress, kind: str, message: str, *, of: tuple[int, ...] | None = None) -> bool:
    """Whether this error crashed the attempt, with its stack down to where it was raised in this file."""
    ended = progress.ended
    assert isinstance(ended, Crashed)
    *stack, last = ended.traceback.splitlines()
    assert any(__file__ in line for line in stack)
    assert last == f"{kind}: {message}"
    return (ended.kind, ended.message, ended.of) == (kind, message, of)


async def test_an_error_crosses_with_its_stack(opened: Opened) -> None:
    async def handler(ctx: Context) -> None:
        await ctx.awakeable()
        raise ValueError("odd")

    owner = opened(handler)
    await owner.advance()
    assert is_crash(await owner.advance((1, ONE)), "ValueError", "odd")


async def test_of_a_long_stack_the_last_frames_cross(opened: Opened) -> None:
    def even(left: int) -> None:
        odd(left - 1)

    def odd(left: int) -> None:
        if left <= 0:
            raise ValueError("deep")
        even(left)

    async def handler(ctx: Context) -> None:
        even(200)

    progress = await opened(handler).advance()
    assert is_crash(progress, "ValueError", "deep")
    assert isinstance(progress.ended, Crashed)
    assert MAX_TRACEBACK_CHARACTERS - 300 < len(progress.ended.traceback) <= MAX_TRACEBACK_CHARACTERS
    assert progress.ended.traceback.startswith("…\n  ")
    assert 'raise ValueError("deep")' in progress.ended.traceback


async def test_an_error_crosses_with_a_stack_that_is_text(opened: Opened) -> None:
    class Nasty(Exception):
        @property
        def __notes__(self) -> Any:  # type: ignore[override]
            raise KeyError("no notes")

    async def handler(ctx: Context) -> None:
        try:
            raise ValueError("no\udcff\nFORGED")
        except ValueError as error:
            raise Nasty from error

    ended = (await opened(handler).advance()).ended
    assert isinstance(ended, Crashed)
    assert "can't be shown" in ended.traceback.splitlines()[-1]
    assert "\nFORGED" not in ended.traceback


async def test_the_handler_may_await_something_of_asyncio_s(opened: Opened) -> None:
    async def handler(ctx: Context) -> Any:
        await asyncio.sleep(0.001)
        answer = await ctx.awakeable()
        await asyncio.sleep(0.001)
        return answer

    owner = opened(handler)
    progress = await owner.advance()
    assert [wait.index for wait in progress.blocked_on] == [1]
    assert (await owner.advance((1, ONE))).ended == Finished(result=ONE)


@pytest.mark.parametrize("seed", range(30))
async def test_wherever_it_is_dropped_it_comes_to_the_same_end(opened: Opened, seed: int) -> None:
    """J2: a random program, dropped and begun again along its journal at random places."""
    chance = random.Random(seed)
    program = [chance.choice(["any", "run", "sleep", "await", "publish"]) for _ in range(6)]

    async def handler(ctx: Context) -> list[Any]:
        known: list[Any] = []
        for step in program:
            match step:
                case "any":
                    known.append(await any_of(ctx, *[ctx.awakeable() for _ in range(3)]))
                case "run":
                    known.append(await ctx.run("act", lambda: len(known)))
                case "sleep":
                    await ctx.sleep(timedelta(seconds=1))
                case "await":
                    known.append(await ctx.awakeable())
                case _:
                    ctx.publish("t", len(known))
        return known

    ends = [await _driven(opened, handler, random.Random(seed), drops) for drops in (0.0, 0.5)]
    assert ends[0] == ends[1]


async def _driven(
    opened: Opened, handler: Function, chance: random.Random, drops: float
) -> tuple[object, list[Entry]]:
    lost = random.Random(1)
    owner = opened(handler)
    progress = await owner.until_it_waits(await owner.advance())
    while progress.ended is None:
        if lost.random() < drops:
            owner.attempt.close()
            owner = opened(handler, owner.history)
            progress = await owner.until_it_waits(await owner.advance(durable=len(owner.history)))
            continue
        wait = chance.choice(progress.blocked_on)
        if isinstance(wait, RunWait):
            progress = await owner.advance(durable=len(owner.history))
        else:
            outcome = Resolution.of_json(b"null" if isinstance(wait, TimerWait) else b"%d" % wait.index)
            progress = await owner.advance((wait.index, outcome), durable=len(owner.history))
        progress = await owner.until_it_waits(progress)
    kinds = [
        entry if isinstance(entry, OutcomeDelivered | RunRequested) else type(entry)
        for entry in owner.history
    ]
    return progress.ended, kinds  # type: ignore[return-value]


def test_the_input_crosses_as_it_was_written() -> None:
    given = Input(service="s", handler="h", seed="1", at_ms=1, value=Raw(b'{"a": 1.0e2}'))
    again = msgspec.json.decode(msgspec.json.encode(given), type=Input)
    assert isinstance(again.value, Raw)
    assert bytes(again.value) == b'{"a": 1.0e2}'


async def test_what_one_wait_gave_up_is_waited_for_by_the_next(opened: Opened) -> None:
    """The loser of a nested race, awaited alone afterwards, whatever is asked of the attempt in between."""

    async def handler(ctx: Context) -> Any:
        first, second, third = ctx.awakeable(), ctx.awakeable(), ctx.awakeable()
        await ctx.gather(ctx.race(first, second), third)
        return await second

    owner = opened(handler)
    await owner.advance()
    progress = await owner.advance((1, ONE))
    assert [wait.index for wait in progress.blocked_on] == [3]
    await owner.advance((3, ONE))
    progress = await owner.until_it_waits(await owner.advance())
    assert [wait.index for wait in progress.blocked_on] == [2]
    progress = await owner.advance((2, TWO))
    assert progress.ended == Finished(result=TWO)
