"""Fill a store with invocations that wait: the rows that the engine leaves behind, without the wait.

The handler is run once up to its await by the engine's own code; what it asked for is committed
for each invocation, under IDs of its own, through the store's port. What is left out is on its way
only: the task in the outbox, which would have been published and dropped.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Raw
from msgspec.structs import replace

from awakeables import __version__
from awakeables.core.commands import Advance, Begin, Command
from awakeables.core.ids import Ids
from awakeables.core.invocations import Suspend
from awakeables.core.journal import AwakeableCreated, Entry, Input, SleepRequested, encode_chunk
from awakeables.core.replies import Advanced, Begun
from awakeables.handlers.attempt import AwakeableWait, News, Origin, Progress, TimerWait
from awakeables.handlers.execution import World
from awakeables.handlers.local import LocalAttempts
from awakeables.store.sqlite.store import SqliteStore
from awakeables.world import SystemClock, SystemEntropy
from benchmarks.cycle import app, bench

GROUP = 2000
"""Invocations of one commit."""

ORDER = b'{"id":"o-17","item":"book"}'
HEADERS = {"host": "127.0.0.1:8080", "content-type": "application/json"}
"""What `wrk` sends with a call: it stands in the journal."""

RETENTION_MS = 7 * 24 * 3600 * 1000


class Seeder:
    """Makes the orders that leave an invocation behind, which waits for an answer or a timer that is due."""

    def __init__(self, handler: str) -> None:
        self._handler = handler
        self.clock = SystemClock()
        self._entropy = SystemEntropy()
        self._ids = Ids(self.clock.now_ms, self._entropy.bytes)
        self._owner = self._ids.new("own")

    async def asked(self) -> Progress:
        """What the handler has asked for when it waits for its awakeable."""
        world = World(
            clock=self.clock,
            ids=self._ids,
            app=app.name,
            reply_to=app.completions_topic,
            max_entries=100,
        )
        origin = Origin(invocation_id=self._ids.new("inv"), service=bench.name, handler=self._handler)
        with ThreadPoolExecutor(1) as executor:
            attempt = LocalAttempts(app, world, executor).open(origin, [self._input()], lambda: None)
            progress = attempt.advance(News(now_ms=self.clock.now_ms()))
            attempt.close()
        assert isinstance(progress, Progress), progress
        assert all(isinstance(wait, AwakeableWait | TimerWait) for wait in progress.blocked_on), progress
        return progress

    def orders(self, asked: Progress) -> tuple[str, list[Command]]:
        """The awakeable's ID, and the orders."""
        invocation_id, awakeable_id = self._ids.new("inv"), self._ids.new("prom")
        begin = Begin(
            id=invocation_id,
            service=bench.name,
            handler=self._handler,
            chunk=encode_chunk([self._input()]),
            owner=self._owner,
            build=__version__,
        )
        now_ms = self.clock.now_ms()
        entries = [_own(entry, awakeable_id, now_ms) for entry in asked.entries]
        sleeps = any(isinstance(wait, TimerWait) for wait in asked.blocked_on)
        advance = Advance(
            invocation_id=invocation_id,
            owner=self._owner,
            epoch=1,
            version=1,
            number=1,
            build=__version__,
            next=Suspend(wake=0, due_ms=now_ms if sleeps else None),
            chunk=encode_chunk(entries),
            awakeables=tuple(replace(each, id=awakeable_id) for each in asked.awakeables),
            schemas=asked.schemas,
        )
        return awakeable_id, [begin, advance]

    def _input(self) -> Input:
        return Input(
            service=bench.name,
            handler=self._handler,
            seed=self._entropy.bytes(16).hex(),
            at_ms=self.clock.now_ms(),
            value=Raw(ORDER),
            headers=HEADERS,
        )


def _own(entry: Entry, awakeable_id: str, now_ms: int) -> Entry:
    """The entry as it is in this invocation's journal."""
    match entry:
        case AwakeableCreated():
            return replace(entry, id=awakeable_id)
        case SleepRequested():
            return replace(entry, until_ms=now_ms)
        case _:
            return entry


async def seed(path: Path, count: int, handler: str) -> list[str]:
    """Add so many waiting invocations to a store; the IDs of their awakeables, if they have one."""
    seeder = Seeder(handler)
    asked = await seeder.asked()
    store = SqliteStore(path, clock=seeder.clock, retention_ms=RETENTION_MS)
    await store.open()
    ids: list[str] = []
    try:
        for size in _groups(count):
            made = [seeder.orders(asked) for _ in range(size)]
            ids.extend(awakeable_id for awakeable_id, _ in made)
            await _commit(store, [order for _, orders in made for order in orders])
    finally:
        await store.close()
    return ids


async def _commit(store: SqliteStore, orders: Sequence[Command]) -> None:
    for answer in await store.commit(orders):
        waits = isinstance(answer, Begun) or (
            isinstance(answer, Advanced) and answer.invocation.status == "suspended"
        )
        assert waits, answer


def _groups(count: int) -> Iterator[int]:
    while count > 0:
        yield min(count, GROUP)
        count -= GROUP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument(
        "--handler", default="cycle", help="which handler of benchmarks/cycle.py waits (cycle)"
    )
    parser.add_argument("--ids", type=Path, help="where the IDs of the awakeables are written, one a line")
    given = parser.parse_args()
    ids = asyncio.run(seed(given.store, given.count, given.handler))
    if given.ids is not None:
        given.ids.write_text("\n".join(ids))


if __name__ == "__main__":
    main()
