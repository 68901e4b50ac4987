"""One random stream of orders through memory, SQLite and PostgreSQL: every answer and row is the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, Heartbeat
from awakeables.core.commands import (
    Advance,
    Begin,
    BeginBatch,
    BeginQueued,
    Cancel,
    Claim,
    ClaimEffects,
    Command,
    EditState,
    Ended,
    Expire,
    ExpireState,
    Fire,
    Idempotency,
    Kill,
    MarkPublished,
    MarkRefused,
    NewAwakeable,
    NewSchedule,
    OfWorkflow,
    PartitionFence,
    PauseHandlers,
    PauseInvocation,
    PauseKey,
    PausePartitions,
    PauseSchedule,
    PlacePartitions,
    PlaceSchedules,
    Probe,
    Purge,
    PurgeDeadLetters,
    Queue,
    Release,
    Republish,
    Resend,
    Restart,
    Resume,
    ResumeKey,
    Settle,
    Skip,
    TakeOver,
    TakePartitions,
    TakeTickets,
    Tick,
    Trigger,
)
from awakeables.core.deadletters import DeadLetter, Folding
from awakeables.core.decide.needs import needs
from awakeables.core.effects import EFFECT_STATES
from awakeables.core.ids import IdKind, promise_id
from awakeables.core.instances import Instance
from awakeables.core.invocations import BackOff, Continue, End, Failure, Invocation, Next, Pause, Suspend
from awakeables.core.journal import AwakeableCreated, ClockRead, PromiseCreated, encode_chunk
from awakeables.core.objects import DELAYED, StateWrite
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.replies import Reply
from awakeables.errors import MalformedId
from awakeables.ports import Page, Store
from awakeables.store.memory import MemoryStore
from awakeables.store.postgres import group
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.group import RowCache, StaleRows
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import DLQ, RETENTION_MS, TOPIC, Driver, FakeClock
from support.loading import LOADED_LATE, LoadingStore

COMMITS = 120
OWNERS = ("one", "two", "three")
VALUES = (b"1", b"1.0", b'{"a":1,"b":2}', b'{ "b":2, "a":1 }', b"null")
SCHEDULES = ("hourly", "daily")
SUBSCRIPTION = "orders/fulfil"
FOLDING = Folding(into="dlq_fold", keep=1, keep_bytes=1000, reason="too many", max_verdicts=1)
EVERYTHING = Page(limit=10**6)


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


class Stream:
    """Makes orders up from what is there: most fit, some are stale, repeated or about nothing."""

    def __init__(self, seed: int, memory: MemoryStore, driver: Driver) -> None:
        self.chance = random.Random(seed)  # the seed is the test's name
        self.tables = memory.tables
        self.driver = driver
        self.past: list[Command] = []

    def commit(self) -> list[Command]:
        members = [self.member() for _ in range(self.chance.randint(0, 6))]
        self.past += members
        return members

    def member(self) -> Command:
        if self.past and self.chance.random() < 0.1:
            return self.chance.choice(self.past)
        orders = [self.claim, self.expire, self.release, self.resume, self.take, self.effects, self.sent]
        orders += [
            self.run,
            self.promised,
            self.run,
            self.take_over,
            self.begin_batch,
            self.begin_batch,
            self.place,
            self.pause_partitions,
            self.fire,
            self.fire,
            self.place_schedules,
            self.begin_scheduled,
        ]
        rare = [self.cancel, self.kill, self.purge, self.purge_letters, self.resend]
        rare += [self.republish, self.skip, Probe, self.pause_key, self.pause_handlers]
        rare += [self.edit, self.expire_state]
        orders += [self.resume_key, self.take_tickets, self.pause, self.restart]
        often = [self.begin, self.enter, self.advance, self.settle] * 4
        make = self.chance.choice([*orders, *orders, *rare, *often, self.advance, self.refused])
        return make()

    def one_of(self, known: Sequence[str], kind: IdKind) -> str:
        return self.chance.choice(known) if known and self.chance.random() < 0.95 else self.driver.id(kind)

    def invocation_id(self) -> str:
        return self.one_of(list(self.tables.invocations), "inv")

    def awakeable_id(self) -> str:
        if self.chance.random() < 0.05:
            return self.driver.id("prom", at_ms=1)
        return self.one_of(list(self.tables.awakeables), "prom")

    def event_id(self) -> str:
        return self.one_of(list(self.tables.effects), "evt")

    def begin(self) -> Command:
        keyed = self.chance.random() < 0.4
        number = self.chance.randrange(8)
        return self.driver.a_begin(
            owner=self.chance.choice([None, *OWNERS]),
            delay_ms=self.chance.choice([0, 0, 500]),
            idempotency=Idempotency(scope="s", key=f"k{number}", fingerprint=f"f{self.chance.randrange(2)}")
            if keyed
            else None,
            service=self.chance.choice(["orders", "billing"]),
            first=self.chance.random() < 0.5,
        )

    def enter(self) -> Begin:
        """An exclusive invocation of one of a few keys."""
        return self.driver.a_begin(
            delay_ms=self.chance.choice([0, 0, 0, 500]),
            key=f"key-{self.chance.randrange(3)}",
            queue=Queue(most=self.chance.choice([None, 5])),
        )

    def pause_key(self) -> Command:
        return PauseKey(service="orders", key=f"key-{self.chance.randrange(3)}", by="ann")

    def pause_handlers(self) -> Command:
        target = self.chance.choice(["orders", "orders/fulfil"])
        return PauseHandlers(target=target, paused=self.chance.random() < 0.5, by="ann")

    def resume_key(self) -> Command:
        return ResumeKey(service="orders", key=f"key-{self.chance.randrange(3)}")

    def edit(self) -> Command:
        key = f"key-{self.chance.randrange(3)}"
        return EditState(service="orders", key=key, writes=self.writes())

    def expire_state(self) -> Command:
        before_ms = self.driver.clock.ms - self.chance.choice([0, 500])
        after = self.chance.choice([b"", b"key-0"])
        limit = self.chance.choice([1, 100])
        return ExpireState(service="orders", before_ms=before_ms, limit=limit, after=after)

    def take_tickets(self) -> Command:
        now_ms = self.driver.clock.ms
        rows = [row for row in self.tables.invocations.values() if row.ticket == DELAYED]
        return TakeTickets(ids=tuple(row.id for row in rows if row.due_ms is None or row.due_ms <= now_ms))

    def writes(self) -> tuple[StateWrite, ...]:
        names = self.chance.choices([None, "a", "b", "c"], weights=[1, 3, 3, 3], k=self.chance.randrange(4))
        values = [self.chance.choice([b"1", b"2", None]) for _ in names]
        return tuple(
            StateWrite(name=name, value=None if name is None else value)
            for name, value in zip(names, values, strict=True)
        )

    def advance(self) -> Command:
        running = [row for row in self.tables.invocations.values() if row.owner is not None]
        row = self.chance.choice(running or list(self.tables.invocations.values()) or [None])
        if row is None:
            return self.begin()
        stale = self.chance.random() < 0.1
        step = self.step(row)
        new = [
            NewAwakeable(
                id=self.driver.id("prom"),
                timeout_ms=self.chance.choice([None, 0, 300, 2000]),
                schema_hash=self.chance.choice([None, None, "h1"]),
                codec=self.chance.choice(["json", "json", "bytes"]),
            )
            for _ in range(self.chance.choice([0, 1, 3]))
        ]
        if self.chance.random() < 0.2:
            promise = promise_id("orders", f"key-{self.chance.randrange(3)}", "done")
            new.append(NewAwakeable(id=self.driver.id("prom"), source=promise))
        effects = self.chance.choice([0, 1, 2])
        carried = [*(awakeable.id for awakeable in new), None, self.awakeable_id()]
        return Advance(
            invocation_id=row.id,
            owner=row.owner or "one",
            epoch=row.epoch - stale,
            version=row.version,
            number=row.commits + self.chance.choice([1, 1, 1, 1, 0]),
            build=self.chance.choice(["b1", "b2"]),
            next=step,
            chunk=encode_chunk([ClockRead(at_ms=1), *(AwakeableCreated(id=n.id) for n in new)])
            if new or effects
            else None,
            awakeables=tuple(new),
            schemas=(("h1", b"{}"),) if new else (),
            effects=tuple(
                self.driver.an_effect(row.id, task_for=self.chance.choice(carried)) for _ in range(effects)
            ),
            writes=self.writes() if row.ticket else (),
            dead_letter=self.letter() if type(step) is End and self.chance.random() < 0.3 else None,
            relay_to=DLQ,
        )

    def step(self, row: Invocation) -> Next:
        now_ms = self.driver.clock.ms
        failure = Failure(kind="k", message="m", at_ms=now_ms)
        mine = [a.id for a in self.tables.awakeables.values() if a.invocation_id == row.id]
        steps: list[Next] = [
            Continue(),
            Continue(),
            Suspend(wake=self.chance.choice([row.wake, max(0, row.wake - 1)])),
            Suspend(wake=row.wake, due_ms=now_ms + 400),
            BackOff(due_ms=now_ms + 100, failure=failure),
            Pause(failure=failure),
            End(result=Resolution.of_json(b"0.10"), abandoned=tuple(mine)),
        ]
        return self.chance.choice(steps)

    def settle(self) -> Command:
        count = self.chance.choice([1, 1, 2, 20])
        completions = tuple(self.completion() for _ in range(count))
        places = [place for place in range(count) if self.chance.random() < 0.5]
        return Settle(
            completions=completions,
            fence=self.fence() if self.chance.random() < 0.6 else None,
            held_back_to_ms=self.chance.choice([None, None, self.driver.clock.ms - 1000]),
            originals={place: self.letter() for place in places},
            dead_letters=tuple(self.letter() for _ in range(self.chance.choice([0, 0, 2]))),
            relay_to=DLQ,
            **self.verdicts(count),
        )

    def verdicts(self, count: int) -> dict[str, Any]:
        if self.chance.random() < 0.7:
            return {}
        return {
            "verdicts_to": "shop.verdicts",
            "verdict_ids": tuple(self.driver.id("evt") for _ in range(count)),
        }

    def completion(self) -> Completion:
        body: Resolution | Rejection | Heartbeat | None = self.chance.choice(
            [
                Resolution.of_json(self.chance.choice(VALUES)),
                Resolution.of_json(self.chance.choice(VALUES)),
                Resolution.of_bytes(b"\xff"),
                Rejection(reason=self.chance.choice("ab")),
                Heartbeat(),
                None,
            ]
        )
        mistyped = self.chance.random() < 0.002
        return Completion(
            awakeable_id="prom_1mistyped" if mistyped else self.awakeable_id(),
            body=body,
            source=f"t:0:{self.chance.randrange(500)}",
            checked=self.chance.choice([None, "h1"]),
            refusal="no" if body is None or self.chance.random() < 0.05 else None,
        )

    def letter(self) -> DeadLetter:
        return self.driver.a_letter(offset=self.chance.randrange(60))

    def fence(self) -> PartitionFence:
        partition = self.chance.randrange(2)
        subscription = self.chance.choice(["", SUBSCRIPTION])
        held = self.tables.positions.get((subscription, TOPIC, partition))
        first = (held.next if held else 0) + self.chance.choice([0, 0, 3, -1])
        epoch = (held.epoch if held else 1) - self.chance.choice([0, 0, 0, 1])
        next_ = first + self.chance.randint(1, 5)
        owner = held.owner if held is not None and held.owner else self.chance.choice(OWNERS)
        return PartitionFence(
            topic=TOPIC,
            partition=partition,
            epoch=epoch,
            first=first,
            next=next_,
            owner=owner,
            subscription=subscription,
        )

    def begin_batch(self) -> Command:
        fence = replace(self.fence(), subscription=SUBSCRIPTION)
        count = self.chance.randrange(4)
        begins = [self.chance.choice([self.begin_alone, self.enter])() for _ in range(count)]
        return BeginBatch(
            fence=fence,
            begins=tuple(replace(begin, subscription=SUBSCRIPTION, delay_ms=0) for begin in begins),
            offsets=tuple(fence.first + place for place in range(count)),
            dead_letters=tuple(self.letter() for _ in range(self.chance.choice([0, 0, 1, 3]))),
            relay_to=DLQ,
            folding=self.chance.choice([None, FOLDING]),
        )

    def run(self) -> Command:
        """A run of a workflow, or a call of its other handlers, of one of a few keys."""
        key, is_run = f"key-{self.chance.randrange(3)}", self.chance.random() < 0.6
        promises = (NewAwakeable(id=promise_id("orders", key, "done")),) if is_run else ()
        once = Idempotency(scope="run", key=key, fingerprint=f"f{self.chance.randrange(2)}")
        begin = self.driver.a_begin(key=key)
        created = [PromiseCreated(id=each.id, name="done") for each in promises]
        return replace(
            begin,
            chunk=encode_chunk([self.driver.an_input(), *created]),
            idempotency=once if is_run else None,
            workflow=OfWorkflow(is_run=is_run, scope="run", promises=promises),
        )

    def promised(self) -> Command:
        promise = promise_id("orders", f"key-{self.chance.randrange(3)}", "done")
        completion = replace(self.completion(), awakeable_id=promise, of_promise=True)
        return Settle(completions=(completion,))

    def begin_alone(self) -> Begin:
        return self.driver.a_begin(service=self.chance.choice(["orders", "billing"]))

    def place(self) -> Command:
        offsets = tuple((partition, self.chance.randrange(9)) for partition in range(2))
        return PlacePartitions(
            subscription=SUBSCRIPTION,
            topic=TOPIC,
            offsets=offsets,
            topic_id=self.chance.choice([None, "first"]),
        )

    def pause_partitions(self) -> Command:
        paused = self.chance.random() < 0.5
        return PausePartitions(subscription=SUBSCRIPTION, topic=TOPIC, partitions=(0, 1), paused=paused)

    def place_schedules(self) -> Command:
        names = self.chance.sample(SCHEDULES, self.chance.randrange(3))
        return PlaceSchedules(
            schedules=tuple(
                NewSchedule(
                    name=name,
                    declared=("orders", "fulfil", self.chance.choice([b"{}", b"{}", b"[]"])),
                    next_ms=self.driver.clock.ms + self.chance.choice([10, 50]),
                    read_ms=self.chance.choice([held.next_ms, held.next_ms, None]) if held else None,
                )
                for name in names
                for held in [self.tables.schedules.get(name)]
            ),
            removed=tuple(set(SCHEDULES) - set(names)) if self.chance.random() < 0.2 else (),
            since_ms=self.chance.randrange(3),
            newest=self.chance.random() < 0.2,
        )

    def fire(self) -> Command:
        name = self.chance.choice(SCHEDULES)
        row = self.tables.schedules.get(name)
        next_ms = (row.next_ms if row else self.driver.clock.ms) + self.chance.choice([0, 0, 0, 0, 10])
        count = self.chance.choice([0, 1, 1, 1, 3])
        return Fire(
            schedule=name,
            declared=row.declared if row else ("orders", "fulfil", b"{}"),
            overlap=self.chance.choice(["skip", "queue", "queue", "allow"]),
            next_ms=next_ms,
            following_ms=next_ms + 10,
            ticks=tuple(self.tick(next_ms) for _ in range(count)),
        )

    def tick(self, at_ms: int) -> Tick:
        begin = self.chance.choice([self.begin_alone, self.enter])()
        return Tick(at_ms=at_ms, begin=replace(begin, delay_ms=0))

    def begin_scheduled(self) -> Command:
        """A tick that waits, or one by hand; or a pause."""
        name = self.chance.choice(SCHEDULES)
        row = self.tables.schedules.get(name)
        declared = row.declared if row else ("orders", "fulfil", b"{}")
        if self.chance.random() < 0.4:
            next_ms = self.driver.clock.ms + self.chance.choice([-10, 10])
            return PauseSchedule(schedule=name, paused=self.chance.random() < 0.4, next_ms=next_ms)
        if row is not None and row.queued_ms is not None and self.chance.random() < 0.8:
            return BeginQueued(schedule=name, declared=declared, tick=self.tick(row.queued_ms))
        return Trigger(
            schedule=name,
            declared=declared,
            overlap=self.chance.choice(["skip", "queue", "allow"]),
            tick=self.tick(self.driver.clock.ms),
        )

    def claim(self) -> Command:
        return Claim(
            owner=self.chance.choice(OWNERS),
            limit=self.chance.choice([1, 3, 100]),
            suspect=self.chance.random() < 0.5,
            not_builds=self.chance.choice([(), (), ("b1",)]),
            not_handlers=self.chance.choice([(), (), ("orders/fulfil",)]),
        )

    def expire(self) -> Command:
        held_back_to_ms = self.chance.choice([None, self.driver.clock.ms - 500])
        return Expire(limit=self.chance.choice([1, 100]), held_back_to_ms=held_back_to_ms)

    def release(self) -> Command:
        ids = tuple(self.invocation_id() for _ in range(3))
        return Release(owner=self.chance.choice(OWNERS), ids=ids)

    def take_over(self) -> Command:
        return TakeOver(owner=self.chance.choice(OWNERS), limit=self.chance.choice([1, 100]))

    def resume(self) -> Command:
        return Resume(invocation_id=self.invocation_id())

    def pause(self) -> Command:
        return PauseInvocation(invocation_id=self.invocation_id(), by=self.chance.choice([None, "ann"]))

    def restart(self) -> Command:
        rows = self.tables.invocations
        fitting = [row.id for row in rows.values() if row.status in ("completed", "paused")]
        old = self.chance.choice([self.invocation_id(), *fitting])
        row = rows.get(old)
        given = self.driver.an_input(row.service if row is not None else "orders")
        return Restart(
            invocation_id=old,
            id=self.driver.id("inv"),
            chunk=encode_chunk([given]),
            version=(row.version if row is not None else 1) - (self.chance.random() < 0.1),
            build=self.chance.choice(["b1", "b2"]),
            by=self.chance.choice([None, "ann"]),
        )

    def cancel(self) -> Command:
        return Cancel(invocation_id=self.invocation_id())

    def kill(self) -> Command:
        return Kill(invocation_id=self.invocation_id())

    def purge(self) -> Command:
        # Of one that has not ended, the awakeables that it may create before it is purged are not known.
        rows = self.tables.invocations
        some = {self.invocation_id() for _ in range(4)}
        ids = {key for key in some if key not in rows or rows[key].status == "completed"}
        mine = {
            key: tuple(a.id for a in self.tables.awakeables.values() if a.invocation_id == key) for key in ids
        }
        before_ms = self.driver.clock.ms - self.chance.choice([0, 500, 3000])
        return Purge(ended=tuple(Ended(id=key, awakeables=mine[key]) for key in ids), before_ms=before_ms)

    def purge_letters(self) -> Command:
        before_ms = self.driver.clock.ms - self.chance.choice([500, 3000])
        return PurgeDeadLetters(before_ms=before_ms, limit=self.chance.choice([1, 5]))

    def resend(self) -> Command:
        letter_id = self.one_of(list(self.tables.dead_letters), "dlq")
        return Resend(dead_letter_id=letter_id, event_id=self.driver.id("evt"))

    def republish(self) -> Command:
        failed = self.chance.random() < 0.8
        return Republish(event_id=self.one_of(list(self.tables.failed), "evt") if failed else self.event_id())

    def skip(self) -> Command:
        subscription = self.chance.choice(["", SUBSCRIPTION])
        held = self.tables.positions.get((subscription, TOPIC, 0))
        before = (held.next if held else 0) + self.chance.choice([0, 0, 1])
        return Skip(
            topic=TOPIC,
            partition=0,
            before=before,
            next=before + self.chance.choice([-1, 1, 2]),
            dead_letter=self.letter(),
            relay_to=DLQ,
            recreated=self.chance.random() < 0.3,
            subscription=subscription,
        )

    def take(self) -> Command:
        return TakePartitions(
            owner=self.chance.choice(OWNERS),
            topic=TOPIC,
            partitions=(0, 1),
            topic_id=self.chance.choice([None, "first", "second"]),
            subscription=self.chance.choice(["", SUBSCRIPTION]),
        )

    def effects(self) -> Command:
        return ClaimEffects(owner=self.chance.choice(OWNERS), limit=self.chance.choice([1, 5, 100]))

    def sent(self) -> Command:
        return MarkPublished(event_ids=tuple(self.event_id() for _ in range(self.chance.randrange(4))))

    def refused(self) -> Command:
        return MarkRefused(event_id=self.event_id(), reason="too large")


async def answers(store: Store, members: list[Command]) -> list[Reply] | str:
    try:
        return await store.commit(members)
    except MalformedId as error:
        return str(error)


async def rows(store: Store) -> dict[str, object]:
    """Everything that a store has.

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
        "in_line": [await store.in_line(("orders", f"key-{n}".encode()), 100) for n in range(3)],
        "states": [await store.states(("orders", f"key-{n}".encode()), 100) for n in range(3)],
        "ended": await store.ended(10**15, 10**6),
        "counts": {k: n for k, n in (await store.counts()).items() if not k.endswith("_oldest_ms")},
    }


@pytest.mark.parametrize(
    ("kind", "seed"),
    [(kind, seed) for kind, seeds in ((SqliteStore, 25), (Cold, 10), (Redone, 10)) for seed in range(seeds)],
)
async def test_sqlite_does_what_memory_does(seed: int, kind: type[SqliteStore], tmp_path: Path) -> None:
    clock = FakeClock()
    sqlite = kind(tmp_path / "shop.db", clock=clock, retention_ms=RETENTION_MS)
    await does_what_memory_does(sqlite, clock, seed)


@pytest.mark.real_postgres
@pytest.mark.parametrize("kind", ["as it is", "needs emptied", "locked"])
@pytest.mark.parametrize("seed", range(6))
async def test_pg4_postgres_does_what_memory_does(
    seed: int, kind: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if nothing is loaded ahead, and if each command is decided on rows that are locked."""
    clock = FakeClock()
    if kind == "needs emptied":
        monkeypatch.setattr(group, "needs", lambda members, new=False: needs(members if new else (), new=new))
    if kind == "locked":
        monkeypatch.setattr(group, "OPTIMISTIC_TRIES", 0)
    postgres = PostgresStore(postgres_url, clock=clock, retention_ms=RETENTION_MS)
    await does_what_memory_does(postgres, clock, seed, together=False)


async def does_what_memory_does(store: Store, clock: FakeClock, seed: int, *, together: bool = True) -> None:
    """Compare a store with memory; `together`: a commit that raises leaves nothing behind."""
    await store.open()
    try:
        await _does_what_memory_does(store, clock, seed, together=together)
    finally:
        await store.close()


async def _does_what_memory_does(store: Store, clock: FakeClock, seed: int, *, together: bool) -> None:
    memory = LoadingStore(clock=clock, retention_ms=RETENTION_MS)
    for each in (memory, store):
        await each.membership.register(Instance(id=OWNERS[seed % len(OWNERS)]))
    stream = Stream(seed, memory, Driver(memory, clock))
    for number in range(COMMITS):
        members = stream.commit()
        expected = await answers(memory, members)
        if together or not isinstance(expected, str):
            assert await answers(store, members) == expected, f"commit {number}: {members}"
        clock.ms += stream.chance.choice([0, 1, 50, 400])
    assert await rows(store) == await rows(memory)
    assert memory.missed <= LOADED_LATE
