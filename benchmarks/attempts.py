"""What an attempt costs by itself, in a process of its own: many outcomes at once, and a long replay.

Neither store nor Kafka has a part in it. `python -m benchmarks.attempts` prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec import Raw

from awakeables import App, Context, Service
from awakeables.core.ids import Ids
from awakeables.core.journal import Entry, Input, OutcomeDelivered, RunRequested
from awakeables.core.outcomes import Resolution
from awakeables.handlers.attempt import Attempt, Finished, News, Origin, Progress
from awakeables.handlers.execution import World
from awakeables.handlers.local import LocalAttempts
from awakeables.world import SystemClock, SystemEntropy
from benchmarks.stage import Ground, staged

FEW, MANY = 1_000, 10_000
AT_ONCE = 500
"""How many outcomes come together, as a batch of completions brings them."""

ENTRIES = 1_000
CYCLES = 500
ROUNDS = 9

service = Service("many")
app = App("bench", services=[service])
clock = SystemClock()
ids = Ids(clock.now_ms, SystemEntropy().bytes)


@service.handler()
async def gathers(ctx: Context, count: int) -> int:
    return sum(await ctx.gather(*[ctx.awakeable(int) for _ in range(count)]))


@service.handler()
async def asks(ctx: Context, count: int) -> int:
    """What a handler does in the callback cycle."""
    awakeable = ctx.awakeable(int)
    ctx.publish("tasks", count, awakeable=awakeable)
    return await awakeable


@service.handler()
async def acts(ctx: Context, count: int) -> int:
    total = 0
    for number in range(count):
        total += await ctx.run("add", abs, number)
    return total


def measure(ground: Ground) -> dict[str, Any]:
    """Measure in a process of its own."""
    with staged(ground) as stage:
        found: dict[str, Any] = json.loads(
            stage.run("attempts", "-m", "benchmarks.attempts").splitlines()[-1]
        )
    return found


async def main() -> None:
    with ThreadPoolExecutor(1) as executor:
        world = World(clock=clock, ids=ids, app=app.name, reply_to=app.completions_topic, max_entries=100_000)
        attempts = LocalAttempts(app, world, executor)
        found = {
            "few": FEW,
            "many": MANY,
            "at_once": AT_ONCE,
            "entries": ENTRIES,
            "few_us": _median(lambda: _gather_us(attempts, FEW)),
            "many_us": _median(lambda: _gather_us(attempts, MANY)),
            "replay_ms": _median(lambda: _replay_ms(attempts)),
            "cycle_us": _median(lambda: _cycle_us(attempts)),
        }
    print(json.dumps(found))


def _median(measured: Callable[[], float]) -> float:
    took = []
    for _ in range(ROUNDS):
        gc.collect()
        took.append(measured())
    return statistics.median(took)


def _gather_us(attempts: LocalAttempts, count: int) -> float:
    """From the first outcome to the end, for each part."""
    attempt = _opened(attempts, "gathers", [_input("gathers", count)])
    progress = attempt.advance(News(now_ms=clock.now_ms()))
    assert isinstance(progress, Progress)
    durable = 1 + len(progress.entries)
    waits = [wait.index for wait in progress.blocked_on]
    assert len(waits) == count, len(waits)
    one = Resolution.of_json(b"1")
    began_s = time.perf_counter()
    for first in range(0, count, AT_ONCE):
        arrived = tuple((index, one) for index in waits[first : first + AT_ONCE])
        progress = attempt.advance(News(now_ms=0, durable=durable, arrived=arrived))
        assert isinstance(progress, Progress)
        while progress.owes:
            progress = attempt.advance(News(now_ms=0, durable=durable))
            assert isinstance(progress, Progress)
    took_s = time.perf_counter() - began_s
    _check(attempt, progress, count)
    return took_s * 1e6 / count


def _cycle_us(attempts: LocalAttempts) -> float:
    """The attempts of callback cycles, one after the other, for each."""
    began_s = time.perf_counter()
    for number in range(CYCLES):
        attempt = _opened(attempts, "asks", [_input("asks", number)])
        progress = attempt.advance(News(now_ms=clock.now_ms()))
        assert isinstance(progress, Progress)
        (wait,) = progress.blocked_on
        answer = Resolution.of_json(str(number).encode())
        news = News(now_ms=0, durable=1 + len(progress.entries), arrived=((wait.index, answer),))
        progress = attempt.advance(news)
        assert isinstance(progress, Progress)
        _check(attempt, progress, number)
    return (time.perf_counter() - began_s) * 1e6 / CYCLES


def _replay_ms(attempts: LocalAttempts) -> float:
    """From a journal of `ENTRIES` entries, read and decoded, to the end of the handler."""
    runs = ENTRIES // 2
    history: list[Entry] = [_input("acts", runs)]
    for number in range(runs):
        outcome = Resolution.of_json(str(number).encode())
        history += [RunRequested(name="add"), OutcomeDelivered(of=len(history), outcome=outcome)]
    began_s = time.perf_counter()
    attempt = _opened(attempts, "acts", history)
    progress = attempt.advance(News(now_ms=clock.now_ms(), durable=len(history)))
    took_s = time.perf_counter() - began_s
    assert isinstance(progress, Progress)
    _check(attempt, progress, sum(range(runs)))
    return took_s * 1000


def _opened(attempts: LocalAttempts, handler: str, history: Sequence[Entry]) -> Attempt:
    origin = Origin(invocation_id=ids.new("inv"), service=service.name, handler=handler)
    return attempts.open(origin, history, lambda: None)


def _input(handler: str, count: int) -> Input:
    return Input(
        service=service.name,
        handler=handler,
        seed="5eed",
        at_ms=clock.now_ms(),
        value=Raw(str(count).encode()),
    )


def _check(attempt: Attempt, progress: Progress, result: int) -> None:
    attempt.close()
    assert progress.ended == Finished(result=Resolution.of_json(str(result).encode())), progress.ended


if __name__ == "__main__":
    asyncio.run(main())
