"""What is done to instances, workers, the function, PostgreSQL and Kafka, as a seed decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import Random

import httpx

from e2e.chaos.functions import LIMIT, TIMEOUT
from e2e.chaos.processes import Victim
from e2e.chaos.world import START_S, World
from support.eventually import eventually
from support.proxy import Proxy, State
from support.real_kafka import RealKafka
from support.real_postgres import RealPostgres

TIMEOUT_S = 5.0
"""An instance that is silent for so long is declared dead; the shortest that may be set."""

SECOND = timedelta(seconds=1)
GRACE = timedelta(seconds=0.6)
SHORT_S = (0.2, 2.0)
LONG_S = (2.0 * TIMEOUT_S, 2.4 * TIMEOUT_S)
"""Shorter and longer than any time-out after which somebody is taken for dead."""

FREEZE_S = 5.0
"""How long an instance is given to come to a write, or the function to come to an action."""

OVER_LIMIT_S = (LIMIT + GRACE) / SECOND, (TIMEOUT - GRACE) / SECOND
"""Longer than actions of the function may take, and shorter than the service waits for it."""

OVER_TIMEOUT_S = (TIMEOUT + GRACE) / SECOND, (TIMEOUT + 6 * GRACE) / SECOND
AWAY_S = (2.0, 4.0)
NOTICED_S = 20.0
"""How long the function stays away at most until an instance has found it down."""

AWAY = "take the function away"
FUNCTION_FAULTS = ("kill the function", "freeze the function for a moment", "freeze the function", AWAY)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        at: Whom it is done to; a second one waits until the first is over. Killing waits for nothing.
        lasts: Longer than time-outs, so that other faults may come meanwhile.
    """

    name: str
    at: object
    lasts: bool
    do: Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Harm:
    """A fault that was done, and how many calls were under way when it began."""

    name: str
    under_way: int
    began_ms: int
    ended_ms: int

    def __str__(self) -> str:
        return f"{self.name} ({self.under_way} under way, {(self.ended_ms - self.began_ms) / 1000:.1f} s)"


@dataclass(frozen=True, kw_only=True)
class Infrastructure:
    """What the instances share, and what is between the last of them and that."""

    postgres: RealPostgres
    kafka: RealKafka
    to_postgres: Proxy
    to_kafka: Proxy


class Faults:
    """Every kind of fault, each at a target and for a time that the seed decides."""

    def __init__(self, here: World, things: Infrastructure, chance: Random) -> None:
        self._here = here
        self._things = things
        self._chance = chance

    def planned(self, count: int) -> list[Fault]:
        """So many faults: each kind once, in any order, before one comes again."""
        planned: list[Fault] = []
        while len(planned) < count:
            kinds = self._kinds()
            planned += self._chance.sample(kinds, len(kinds))
        return planned[:count]

    def _kinds(self) -> list[Fault]:
        instances, workers = self._here.instances, list(self._here.workers.values())
        short_s, long_s = partial(self._chance.uniform, *SHORT_S), partial(self._chance.uniform, *LONG_S)
        store, broker = self._things.to_postgres, self._things.to_kafka
        one, other = self._chance.sample(instances, 2)
        worker, sleeper = self._chance.choice(workers), self._chance.choice(workers)

        def kind(name: str, at: object, do: Callable[[], Awaitable[None]], *, lasts: bool = False) -> Fault:
            return Fault(name=name, at=at, lasts=lasts, do=do)

        before, freeze = self._freeze_before_a_write, _freeze
        return [
            kind("kill an instance", None, partial(_kill, one)),
            kind("kill all instances", None, partial(_kill, *instances)),
            kind("kill a worker", None, partial(_kill, worker)),
            kind("freeze an instance", one, partial(freeze, one, long_s()), lasts=True),
            kind("freeze an instance before a write", other, partial(before, other, long_s()), lasts=True),
            kind(
                "freeze an instance with locks",
                one,
                partial(before, one, long_s(), locking=True),
                lasts=True,
            ),
            kind("freeze an instance for a moment", other, partial(freeze, other, short_s())),
            kind("freeze a worker", sleeper, partial(freeze, sleeper, long_s()), lasts=True),
            kind("stop PostgreSQL", self._things.postgres, partial(self._stop_postgres, short_s())),
            kind("freeze PostgreSQL", self._things.postgres, partial(self._freeze_postgres, short_s())),
            kind("restart the broker", self._things.kafka, self._restart_kafka),
            kind("kill the broker", self._things.kafka, self._kill_kafka, lasts=True),
            kind("freeze the broker", self._things.kafka, partial(self._freeze_kafka, long_s()), lasts=True),
            kind("cut the store off", store, partial(_break, store, "cut", short_s())),
            kind("stall the store", store, partial(_break, store, "stalled", long_s()), lasts=True),
            kind("deafen to the store", store, partial(_break, store, "deaf", short_s(), then="cut")),
            kind("cut the broker off", broker, partial(_break, broker, "cut", short_s())),
            kind("stall the broker", broker, partial(_break, broker, "stalled", long_s()), lasts=True),
            *self._kinds_of(self._here.function),
        ]

    def _kinds_of(self, function: Victim | None) -> list[Fault]:
        """They begin while the function executes something: what is lost then is executed again."""
        if function is None:
            return []
        uniform = self._chance.uniform
        deeds: list[Callable[[], Awaitable[None]]] = [
            partial(_kill, function),
            partial(_freeze, function, uniform(*OVER_LIMIT_S)),
            partial(_freeze, function, uniform(*OVER_TIMEOUT_S)),
            partial(self._take_away, function, uniform(*AWAY_S)),
        ]
        return [
            Fault(name=name, at=function, lasts=number > 0, do=partial(self._amid_an_action, do))
            for number, (name, do) in enumerate(zip(FUNCTION_FAULTS, deeds, strict=True))
        ]

    async def _amid_an_action(self, do: Callable[[], Awaitable[None]]) -> None:
        """If it comes to one soon."""
        await self._here.function_works(FREEZE_S)
        await do()

    async def _take_away(self, function: Victim, lasts_s: float) -> None:
        """At least until an instance sends it nothing more, if one is there to find that out."""
        async with function.away():
            await asyncio.sleep(lasts_s)
            with suppress(AssertionError):
                await eventually(self._here.function_is_down, timeout=NOTICED_S)

    async def _freeze_before_a_write(self, victim: Victim, lasts_s: float, *, locking: bool = False) -> None:
        """If it comes to one soon; without work it comes to none."""
        await eventually(partial(self._is_live, victim), timeout=START_S)
        await victim.freeze_before_a_write(locking=locking, timeout=FREEZE_S)
        await _freeze(victim, lasts_s)

    async def _is_live(self, victim: Victim) -> bool:
        """Whether it has come so far that such a signal does not end it."""
        client = self._here.clients[self._here.instances.index(victim)]
        try:
            return (await client.get("/health/live", timeout=2)).status_code == 200
        except httpx.TransportError:
            return False

    async def _stop_postgres(self, lasts_s: float) -> None:
        """As a power cut does."""
        await asyncio.to_thread(self._things.postgres.stop, "immediate")
        await asyncio.sleep(lasts_s)
        await asyncio.to_thread(self._things.postgres.start)

    async def _freeze_postgres(self, lasts_s: float) -> None:
        with self._things.postgres.frozen():
            await asyncio.sleep(lasts_s)

    async def _restart_kafka(self) -> None:
        await asyncio.to_thread(self._things.kafka.restart)

    async def _kill_kafka(self) -> None:
        await asyncio.to_thread(partial(self._things.kafka.take_down, abruptly=True))
        await asyncio.to_thread(self._things.kafka.bring_up)

    async def _freeze_kafka(self, lasts_s: float) -> None:
        with self._things.kafka.frozen():
            await asyncio.sleep(lasts_s)


async def _kill(*victims: Victim) -> None:
    """They are started again by whoever keeps them running."""
    for victim in victims:
        victim.kill_now()


async def _freeze(victim: Victim, lasts_s: float) -> None:
    """A victim that has just been killed is frozen while it starts."""
    while not victim.is_running:  # noqa: ASYNC110 - the system has no event for it
        await asyncio.sleep(0.01)
    victim.freeze()
    await asyncio.sleep(lasts_s)
    victim.thaw()


async def _break(proxy: Proxy, state: State, lasts_s: float, *, then: State | None = None) -> None:
    await proxy.become(state)
    await asyncio.sleep(lasts_s)
    if then is not None:
        await proxy.become(then)
    await proxy.become("passes")
