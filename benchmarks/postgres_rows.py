"""What the PostgreSQL store's own statements cost: completions persisted, and searches that find nothing.

Without Kafka and handlers: `PostgresStore` beside hand-made SQL over one connection each, in turn. The rows
are those that the engine leaves behind (see seed.py); of the many, most are copies under other IDs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from awakeables.core.awakeables import Completion
from awakeables.core.commands import Advance, Claim, Command, Expire, PartitionFence, Settle, TakePartitions
from awakeables.core.invocations import Suspend
from awakeables.core.journal import ClockRead, encode_chunk
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import Claimed, SettledAll
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.postgres.store import PostgresStore
from awakeables.world import SystemClock
from benchmarks.seed import RETENTION_MS, Seeder

TOPIC = "bench.completions"
GROUP = 1000
"""Completions of one commit: what the service makes of a backlog."""

BATCHES = 10
ROUNDS = 5
MOVED = 20_000
LOOKS = 200

HAND_MADE = """
WITH n AS (SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS n (id, outcome, book)),
settled AS (
    UPDATE awakeables.awakeables AS a
    SET state = 'resolved', settled_ms = $4, settled_by = 'kafka', outcome = n.outcome, book = n.book
    FROM n WHERE a.id = n.id AND a.state = 'pending' RETURNING a.invocation_id),
woken AS (
    UPDATE awakeables.invocations AS i SET wake = i.wake + 1, status = 'pending', due_ms = $4
    FROM settled AS s WHERE i.id = s.invocation_id AND i.status = 'suspended' RETURNING 1)
UPDATE awakeables.offsets SET next = $5 WHERE subscription = '' AND topic = $6 AND partition = 1
"""
"""What a team writes that does the same by hand: compare-and-set, verdict, wake-up, offset."""

BARE = """
WITH settled AS (
    UPDATE awakeables.awakeables AS a SET state = 'resolved', settled_ms = $3, outcome = n.outcome
    FROM unnest($1::text[], $2::bytea[]) AS n (id, outcome) WHERE a.id = n.id AND a.state = 'pending')
UPDATE awakeables.offsets SET next = $4 WHERE subscription = '' AND topic = $5 AND partition = 2
"""

OTHER_ID = "overlay(t.{} placing lpad(to_hex(n), 6, '0') from 22 for 6)"
"""An ID of the table `t` with the number `n` in its random part."""


async def measure(url: str, *, many: int) -> dict[str, Any]:
    """Measure on an empty database; it has `many` suspended invocations afterwards."""
    async with _opened(url) as (store, hand):
        persisted = await _persisted(store, hand)
        await _fill(store, hand, many)
        claims = {"fresh": await _empty_ms(store)}
        async with _snapshot(url):
            await _move(store, hand)
            claims["held"] = await _empty_ms(store)
    return {"group": GROUP, "persisted": persisted, "many": many, "moved": MOVED, "empty": claims}


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[tuple[PostgresStore, Any]]:
    store = PostgresStore(url, retention_ms=RETENTION_MS)
    await store.open()
    hand = await asyncpg.connect(url)
    try:
        await hand.execute(QUERIES["writer"])
        yield store, hand
    finally:
        await hand.close()
        await store.close()


@asynccontextmanager
async def _snapshot(url: str) -> AsyncIterator[None]:
    """As a long `pg_dump` holds one: no row version that it may see can be removed meanwhile."""
    other = await asyncpg.connect(url)
    try:
        async with other.transaction(isolation="repeatable_read", readonly=True):
            await other.fetchval("SELECT count(*) FROM awakeables.meta")
            yield
    finally:
        await other.close()


# ── completions persisted ───────────────────────────────────────────────────────────────────


async def _persisted(store: PostgresStore, hand: Any) -> dict[str, float]:
    """Completions per second of each way, and the ratios of ours, as medians over the rounds."""
    rounds: list[dict[str, float]] = []
    await store.commit([TakePartitions(owner="bench", topic=TOPIC, partitions=(0, 1, 2))])
    schema = await _schema()
    for number in range(ROUNDS):
        seeded = [await _seed(store, GROUP) for _ in range(3 * BATCHES)]
        await hand.execute("VACUUM ANALYZE")
        ours, hands, bare = seeded[:BATCHES], seeded[BATCHES : 2 * BATCHES], seeded[2 * BATCHES :]
        done = number * BATCHES * GROUP
        rounds.append(
            {
                "ours": await _rate(ours, lambda ids, at: _settled(store, _settle(ids, at, schema)), done),
                "hand": await _rate(hands, lambda ids, at: hand.execute(HAND_MADE, *_hand(ids, at)), done),
                "bare": await _rate(bare, lambda ids, at: hand.execute(BARE, *_bare(ids, at)), done),
            }
        )
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    return medians | {
        f"ratio_{name}": statistics.median(each["ours"] / each[name] for each in rounds)
        for name in ("hand", "bare")
    }


async def _rate(
    batches: Sequence[list[str]], persist: Callable[[list[str], int], Awaitable[object]], done: int
) -> float:
    began_s = time.perf_counter()
    for number, ids in enumerate(batches):
        await persist(ids, done + number * GROUP)
    return len(batches) * GROUP / (time.perf_counter() - began_s)


VALUE = b'{"id":"o-17","item":"book"}'
OUTCOME = b"\x92\x01\xc4\x1b" + VALUE
BOOK = bytes(120)
"""About as long as ours are: what they say does not matter to a database."""


async def _schema() -> str | None:
    """The hash of the schema that the service has checked the values against."""
    return (await Seeder("cycle").asked()).awakeables[0].schema_hash


async def _settled(store: PostgresStore, command: Settle) -> None:
    [reply] = await store.commit([command])
    assert isinstance(reply, SettledAll), reply
    assert all(verdict is not None and verdict.kind == "accepted" for verdict in reply.verdicts)


def _completion(awakeable_id: str, source: str, schema: str | None) -> Completion:
    body = Resolution.of_json(VALUE)
    return Completion(awakeable_id=awakeable_id, body=body, source=source, checked=schema)


def _settle(ids: Sequence[str], first: int, schema: str | None) -> Settle:
    offsets = tuple(range(first, first + len(ids)))
    return Settle(
        completions=tuple(
            _completion(each, f"kafka:{TOPIC}:0:{at}@0", schema)
            for each, at in zip(ids, offsets, strict=True)
        ),
        fence=PartitionFence(
            topic=TOPIC, partition=0, epoch=1, first=first, next=first + len(ids), owner="bench"
        ),
        offsets=offsets,
    )


def _hand(ids: Sequence[str], first: int) -> tuple[Any, ...]:
    count = len(ids)
    return sorted(ids), [OUTCOME] * count, [BOOK] * count, SystemClock().now_ms(), first + count, TOPIC


def _bare(ids: Sequence[str], first: int) -> tuple[Any, ...]:
    return sorted(ids), [OUTCOME] * len(ids), SystemClock().now_ms(), first + len(ids), TOPIC


async def _seed(store: PostgresStore, count: int) -> list[str]:
    """So many waiting invocations; the IDs of their awakeables."""
    seeder = Seeder("cycle")
    asked = await seeder.asked()
    made = [seeder.orders(asked) for _ in range(count)]
    await store.commit([order for _, orders in made for order in orders])
    return [awakeable_id for awakeable_id, _ in made]


# ── searches that find nothing ──────────────────────────────────────────────────────────────


async def _fill(store: PostgresStore, hand: Any, many: int) -> None:
    """So many waiting invocations, most of them copies of the first thousand."""
    await hand.execute(
        "TRUNCATE awakeables.invocations, awakeables.journal, awakeables.awakeables, awakeables.outbox"
    )
    await _seed(store, GROUP)
    copies = many // GROUP - 1
    for table, names in (
        ("invocations", ["id"]),
        ("journal", ["invocation_id"]),
        ("awakeables", ["id", "invocation_id"]),
    ):
        columns = [
            row[0]
            for row in await hand.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'awakeables'"
                " AND table_name = $1 ORDER BY ordinal_position",
                table,
            )
        ]
        chosen = ", ".join(
            f"overlay(t.{name} placing lpad(to_hex(n), 6, '0') from 22 for 6)"
            if name in names
            else f"t.{name}"
            for name in columns
        )
        await hand.execute("SET statement_timeout = 0")
        await hand.execute(
            f"INSERT INTO awakeables.{table} ({', '.join(columns)})"
            f" SELECT {chosen} FROM awakeables.{table} AS t, generate_series(1, {copies}) AS n",
            timeout=600,
        )
    await hand.execute("VACUUM ANALYZE", timeout=600)


async def _empty_ms(store: PostgresStore) -> dict[str, float]:
    """The median of a search that finds nothing, in milliseconds, commit included."""
    return {
        "claim": await _median_ms(store, Claim(owner="bench", limit=100)),
        "expire": await _median_ms(store, Expire(limit=1000)),
    }


async def _median_ms(store: PostgresStore, command: Command) -> float:
    taken: list[float] = []
    for _ in range(LOOKS):
        began_s = time.perf_counter()
        await store.commit([command])
        taken.append(time.perf_counter() - began_s)
    return statistics.median(taken) * 1000


async def _move(store: PostgresStore, hand: Any) -> None:
    """Wake, claim and suspend that many, so that as many dead entries lie in the index of what is due."""
    schema = await _schema()
    rows = await hand.fetch("SELECT id FROM awakeables.awakeables ORDER BY id LIMIT $1", MOVED)
    for first in range(0, MOVED, GROUP):
        some = rows[first : first + GROUP]
        completions = tuple(_completion(row[0], f"http:{row[0]}", schema) for row in some)
        await _settled(store, Settle(completions=completions))
        [claimed] = await store.commit([Claim(owner="bench", limit=GROUP)])
        assert isinstance(claimed, Claimed), claimed
        assert len(claimed.invocations) == len(some)
        await store.commit(
            [
                Advance(
                    invocation_id=row.id,
                    owner="bench",
                    epoch=row.epoch,
                    version=row.version,
                    number=1,
                    build="bench",
                    next=Suspend(wake=row.wake),
                    chunk=encode_chunk([ClockRead(at_ms=0)]),
                )
                for row in claimed.invocations
            ]
        )
