"""One random stream of commands through memory, SQLite and PostgreSQL: every answer and row is the same."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import pytest

from awakeables.core import commands
from awakeables.core.awakeables import Completion
from awakeables.core.commands import Command
from awakeables.core.decide.decisions import BY_KEY, BY_SEARCH
from awakeables.core.decide.needs import needs
from awakeables.core.effects import EFFECT_STATES
from awakeables.core.instances import Instance
from awakeables.core.invocations import STATUSES
from awakeables.core.records import Record
from awakeables.core.replies import Reply
from awakeables.errors import MalformedId
from awakeables.ports import InvocationFilter, Page, Pages, Snapshot, Store
from awakeables.store import floors
from awakeables.store.memory import MemoryStore
from awakeables.store.postgres import group
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.group import RowCache, StaleRows
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, TOPIC, Driver, FakeClock
from contract.stream import OWNERS, SUBSCRIPTION, Stream
from contract.vandal import audit_of
from support.effort import some
from support.keys import ring
from support.loading import LOADED_LATE, LoadingStore
from support.sqlite_file import empty_store

T = TypeVar("T")

COMMITS = 120
EVERYTHING = Page(limit=10**6)
KEYS = [(service, f"key-{n}".encode()) for service in ("orders", "billing") for n in range(3)]


@pytest.fixture(autouse=True)
def whole_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search passes over what was written late: for how long it may is counted in real time."""
    monkeypatch.setattr(floors, "WHOLE_S", 0.0)


class Cold(SqliteStore):
    """Knows no row from the commits before."""

    def _decide(self, *args: Any, **kwargs: Any) -> Any:
        self._known = RowCache(RETENTION_MS)
        return super()._decide(*args, **kwargs)


class Redone(SqliteStore):
    """Finds each commit's rows changed, once all of it is decided and written."""

    def _decide(self, *args: Any, one_by_one: bool = False) -> Any:
        decided = super()._decide(*args, one_by_one=one_by_one)
        if not one_by_one:
            raise StaleRows("as if another had written")
        return decided


class Sealed(SqliteStore):
    """Keeps values sealed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, codec=ring("2026-11"))


async def answers(store: Store, members: list[Command]) -> list[Reply] | str:
    try:
        return await store.commit(members)
    except MalformedId as error:
        return str(error)


async def rows(store: Store) -> dict[str, object]:
    """Everything that a store has, as it answers those who ask.

    But for the ages: an order that the stream sends again long afterwards makes rows that are younger
    than their IDs, and SQLite takes the row of the first ID for the oldest.
    """
    invocations = await store.invocations(EVERYTHING)
    awakeables = await store.awakeables(EVERYTHING)
    ids = [row.id for row in awakeables]
    queued = {state: await store.queued_effects(EVERYTHING, state=state) for state in EFFECT_STATES}
    letters = await store.dead_letters(EVERYTHING)
    return {
        "lists": (invocations, awakeables, queued, letters),
        "invocations": [await store.invocation(row.id) for row in invocations],
        "statuses": [
            await store.invocations(EVERYTHING, InvocationFilter(status=status)) for status in STATUSES
        ],
        "journals": [await store.journal(row.id, 300) for row in invocations],
        "ends": await store.ends([row.id for row in invocations]),
        "waits": [await store.waits_of(row.id, 100) for row in invocations],
        "keys": [await store.idempotency_key(row.id) for row in invocations],
        "keyed": [await store.keyed(["s", "run"], key) for key in ("k0", "k1", "key-0", "key-1")],
        "history": await store.history([row.id for row in invocations]),
        "awakeables": [await store.awakeable(key) for key in ids],
        "outcomes": await store.outcomes(ids),
        "expectations": await store.expectations(ids),
        "held": {owner: sorted(await store.held_by(owner)) for owner in OWNERS},
        "unsent": {owner: await store.effects(owner, 10**6) for owner in ("", *OWNERS)},
        "queued": [await store.queued_effect(row.id) for rows in queued.values() for row in rows],
        "dead_letters": [await store.dead_letter(row.id) for row in letters],
        "positions": [await store.positions(TOPIC, name) for name in ("", SUBSCRIPTION)],
        "subscribed": await store.subscribed(),
        "open": [await store.count_open(SUBSCRIPTION, most) for most in (1, 3, 100)],
        "schedules": await store.schedules(),
        "pauses": await store.pauses(),
        "versions": sorted(await store.open_by_versions(), key=str),
        "queues": await store.queues("orders", 100),
        "with_state": await store.keys_with_state("orders", 100),
        "of_keys": [
            (
                await store.queue(key),
                await store.in_line(key, 100),
                await store.states(key, 100),
                await store.state_names(key),
                await store.state(key, "a"),
            )
            for key in KEYS
        ],
        "instances": await store.membership.instances(),
        "ended": await store.ended(10**15, 10**6),
        "counts": {k: n for k, n in (await store.counts()).items() if not k.endswith("_oldest_ms")},
    }


async def tables(snapshot: Snapshot) -> dict[str, object]:
    """Everything that a store has, as the audit reads it: waits, promises and all keys, too."""
    effects = [row for state in EFFECT_STATES for row in await every(snapshot.effects(state))]
    keys = await every(snapshot.idempotency_keys())
    return {
        "invocations": await every(snapshot.invocations()),
        "chunks": await every(snapshot.chunks()),
        "awakeables": await every(snapshot.awakeables()),
        "effects": sorted((row.event_id, row.stream, row.claimed_by, row.position) for row in effects),
        "keys": sorted((row.scope, row.key, row.invocation_id) for row in keys),
        "positions": await every(snapshot.positions()),
        "objects": await every(snapshot.objects()),
        "schemas": await snapshot.schema_hashes(),
    }


async def every(pages: Pages[T]) -> list[T]:
    return [row async for page in pages for row in page]


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        (kind, seed)
        for kind, seeds in ((SqliteStore, 25), (Cold, 10), (Redone, 10), (Sealed, 10))
        for seed in range(some(seeds))
    ],
)
async def test_sqlite_does_what_memory_does(seed: int, kind: type[SqliteStore], tmp_path: Path) -> None:
    clock = FakeClock()
    sqlite = kind(empty_store(tmp_path), clock=clock, retention_ms=RETENTION_MS)
    await does_what_memory_does(sqlite, clock, seed)


@pytest.mark.real_postgres
@pytest.mark.parametrize("kind", ["as it is", "needs emptied", "locked", "sealed"])
@pytest.mark.parametrize("seed", range(6))
async def test_pg4_postgres_does_what_memory_does(
    seed: int, kind: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if nothing is loaded ahead, if all is decided on locked rows, and if values are sealed."""
    clock = FakeClock()
    if kind == "needs emptied":
        monkeypatch.setattr(group, "needs", lambda members, new=False: needs(members if new else (), new=new))
    if kind == "locked":
        monkeypatch.setattr(group, "OPTIMISTIC_TRIES", 0)
    codec = ring("2026-11") if kind == "sealed" else None
    postgres = PostgresStore(postgres_url, clock=clock, retention_ms=RETENTION_MS, codec=codec)
    await does_what_memory_does(postgres, clock, seed, together=False)


async def does_what_memory_does(store: Store, clock: FakeClock, seed: int, *, together: bool = True) -> None:
    """Compare a store with memory; `together`: a commit that raises leaves nothing behind."""
    await store.open()
    try:
        await _does_what_memory_does(store, clock, seed, together=together)
    finally:
        await store.close()


async def _does_what_memory_does(store: Store, clock: FakeClock, seed: int, *, together: bool) -> None:
    shared = store.membership.shared
    memory = LoadingStore(clock=clock, retention_ms=RETENTION_MS, shared=shared)
    for owner in OWNERS if shared else [OWNERS[seed % len(OWNERS)]]:
        for each in (memory, store):
            await each.membership.register(Instance(id=owner))
    stream = Stream(seed, memory, Driver(memory, clock))
    for number in range(COMMITS):
        members = stream.commit()
        expected = await answers(memory, members)
        if together or not isinstance(expected, str):
            assert await answers(store, members) == expected, f"commit {number}: {members}"
        aside = stream.aside()
        if aside is not None:
            assert await aside(store) == await aside(memory)
        clock.ms += stream.chance.choice([0, 1, 50, 400])
    assert await rows(store) == await rows(memory)
    assert await audit_of(store, clock).look(tables) == await audit_of(memory, clock).look(tables)
    assert memory.missed <= LOADED_LATE


# ── what the stream draws ───────────────────────────────────────────────────────────────────

SEEDS = range(25)
"""Those on which SQLite is compared with memory."""

ONLY_COPIED = {
    ("Advance", "relay_to"),
    ("BeginBatch", "relay_to"),
    ("Skip", "relay_to"),
    ("OfWorkflow", "scope"),
    ("PartitionFence", "topic"),
    ("TakePartitions", "topic"),
    ("PlacePartitions", "topic"),
    ("PlacePartitions", "subscription"),
    ("PausePartitions", "topic"),
    ("PausePartitions", "subscription"),
    ("Skip", "topic"),
}
"""Names of which one is enough."""


class Drawn:
    """What was drawn, and how it was answered.

    Attributes:
        values: The values of each field of each kind of record, by the names of both; two are enough.
        replies: The kinds of reply to each kind of command.
    """

    def __init__(self) -> None:
        self.values: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.replies: defaultdict[type[Command], set[type[Reply]]] = defaultdict(set)

    def note(self, value: object) -> None:
        """Note the fields of a record, and of those in it."""
        if isinstance(value, Record):
            for name in value.__struct_fields__:
                field = getattr(value, name)
                seen = self.values[type(value).__name__, name]
                if len(seen) < 2:
                    seen.add(repr(field))
                self.note(field)
        elif isinstance(value, dict):
            self.note(tuple(value.values()))
        elif isinstance(value, tuple):
            for each in value:
                self.note(each)


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """What a few streams draw, answered by memory."""
    found = Drawn()
    for seed in SEEDS:
        clock = FakeClock()
        memory = MemoryStore(clock=clock, retention_ms=RETENTION_MS)
        stream = Stream(seed, memory, Driver(memory, clock))
        for _ in range(COMMITS):
            members = stream.commit()
            replies = asyncio.run(answers(memory, members))
            stream.aside()
            clock.ms += stream.chance.choice([0, 1, 50, 400])
            found.note(tuple(members))
            if not isinstance(replies, str):
                for member, reply in zip(members, replies, strict=True):
                    found.replies[type(member)].add(type(reply))
    return found


@pytest.mark.parametrize("kind", get_args(Command), ids=lambda kind: kind.__name__)
def test_the_stream_draws_every_command_and_gets_every_kind_of_answer(
    kind: type[Command], drawn: Drawn
) -> None:
    decision = BY_KEY.get(kind) or BY_SEARCH[kind]
    answer = get_type_hints(decision)["return"]
    assert drawn.replies[kind] == set(get_args(answer) or [answer])


def test_the_stream_draws_two_values_of_every_field(drawn: Drawn) -> None:
    """A field that is always the same is one on which the stores are not compared."""
    kinds = [kind for kind in vars(commands).values() if isinstance(kind, type) and issubclass(kind, Record)]
    own = [kind for kind in kinds if kind.__module__ == commands.__name__ or kind is Completion]
    fields = {(kind.__name__, name) for kind in own for name in kind.__struct_fields__}
    assert {field for field in fields if len(drawn.values[field]) < 2} == ONLY_COPIED
