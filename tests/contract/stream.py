"""Random commands of every kind, made up from what a store in memory has."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from msgspec import Raw
from msgspec.structs import replace

from awakeables.core.awakeables import (
    LATE_LETTER,
    PROMISE,
    AwakeableRow,
    CodecKind,
    Completion,
    DeadTask,
    Heartbeat,
)
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
    FirstStep,
    Idempotency,
    Kill,
    MarkPublished,
    MarkRefused,
    NewAwakeable,
    NewCall,
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
    ReplayDry,
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
from awakeables.core.deadletters import DeadLetter, Folding, dead_letter_of_task
from awakeables.core.decide.calling import ALIAS, CONFLICT
from awakeables.core.effects import Effect
from awakeables.core.ids import IdKind, promise_id
from awakeables.core.instances import PartitionRead
from awakeables.core.invocations import (
    CANCELLED_OUTCOME,
    BackOff,
    Continue,
    End,
    Failure,
    Invocation,
    Next,
    Pause,
    Suspend,
)
from awakeables.core.journal import (
    AttachRequested,
    AwakeableCreated,
    CallRequested,
    ClockRead,
    Entry,
    PromiseCreated,
    encode_chunk,
)
from awakeables.core.objects import DELAYED, StateWrite
from awakeables.core.outcomes import Outcome, Rejection, Resolution
from awakeables.core.versions import Versions
from awakeables.ports import Store
from awakeables.store.memory import MemoryStore
from contract.driver import DLQ, RETENTION_MS, TOPIC, Driver

OWNERS = ("one", "two", "three")
VALUES = (b"1", b"1.0", b'{"a":1,"b":2}', b'{ "b":2, "a":1 }', b"null")
SCHEDULES = ("hourly", "daily")
SUBSCRIPTION = "orders/fulfil"
FOLDING = Folding(into="dlq_fold", keep=1, keep_bytes=1000, reason="too many", max_verdicts=1)


class Done(NamedTuple):
    """What a step has, in the journal and outside."""

    entries: tuple[Entry, ...]
    awakeables: tuple[NewAwakeable, ...]
    schemas: tuple[tuple[str, bytes], ...]
    effects: tuple[Effect, ...]
    calls: tuple[NewCall, ...]
    called_off: tuple[str, ...]


class Stream:
    """Makes orders up from what is there: most fit, some are stale, repeated or about nothing."""

    def __init__(self, seed: int, memory: MemoryStore, driver: Driver) -> None:
        self.chance = random.Random(seed)  # the seed is the test's name
        self.tables = memory.tables
        self.driver = driver
        self.past: list[Command] = []
        self.purged: set[str] = set()

    def commit(self) -> list[Command]:
        members = [self.member() for _ in range(self.chance.randint(0, 6))]
        self.past += members
        return members

    def aside(self) -> Callable[[Store], Awaitable[object]] | None:
        """What an instance writes outside of commits, now and then."""
        owner = self.chance.choice(OWNERS)
        kind = self.chance.choice(["beat", "beat", "read", "read", "read", "leave", *[None] * 54])
        gone, timeout_ms = self.chance.random() < 0.3, self.chance.choice([4000, 10**6])
        reads = tuple(self.read(partition) for partition in range(2))
        topic_id = self.chance.choice([None, "first", "first", "second"])

        async def act(store: Store) -> object:
            match kind:
                case "beat":
                    reply = await store.membership.beat(owner, timeout_ms=timeout_ms)
                    return reply and (reply.now_ms, sorted(reply.living, key=lambda each: each.id))
                case "leave":
                    await store.membership.leave(owner, gone=gone)
                    return None
                case _:
                    return await store.read_up_to(TOPIC, 2, reads, topic_id=topic_id)

        return None if kind is None else act

    def read(self, partition: int) -> PartitionRead:
        held = self.tables.positions.get(("", TOPIC, partition))
        epoch = (held.epoch if held else 1) - (self.chance.random() < 0.2)
        up_to_ms = self.driver.clock.ms - self.chance.choice([0, 300])
        return PartitionRead(partition=partition, epoch=epoch, up_to_ms=up_to_ms)

    def member(self) -> Command:
        if self.past and self.chance.random() < 0.1:
            return self.again()
        orders = [self.claim, self.expire, self.release, self.resume, self.take, self.effects, self.sent]
        orders += [
            self.claim,
            self.claim,
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
            self.begin_scheduled,
            self.replay_dry,
        ]
        rare = [self.cancel, self.kill, self.purge, self.purge_letters, self.resend]
        rare += [self.republish, self.skip, Probe, self.pause_key, self.pause_handlers]
        rare += [self.edit, self.expire_state]
        orders += [self.resume_key, self.take_tickets, self.pause, self.restart]
        often = [self.begin, self.enter, self.settle, self.advance, self.advance, self.advance] * 4
        make = self.chance.choice([*orders, *orders, *rare, *often, self.advance, self.refused])
        return make()

    def again(self) -> Command:
        """One of the past, sent again; not one whose calls may be there without it, since it is purged."""
        command = self.chance.choice(self.past)
        match command:
            case Begin(first=FirstStep(calls=(_, *_))) if command.id in self.purged:
                return self.begin()
            case Advance(calls=(_, *_)) if command.invocation_id in self.purged:
                return self.begin()
            case _:
                return command

    def one_of(self, known: Sequence[str], kind: IdKind) -> str:
        return self.chance.choice(known) if known and self.chance.random() < 0.95 else self.driver.id(kind)

    def invocation_id(self) -> str:
        return self.one_of(list(self.tables.invocations), "inv")

    def awakeable_id(self, *, waits: bool = True) -> str:
        """One of an awakeable; with `waits`, perhaps of a wait for a call, or of a promise."""
        if self.chance.random() < 0.05:
            return self.driver.id("prom", at_ms=1)
        rows = self.tables.awakeables.values()
        return self.one_of([row.id for row in rows if waits or row.source_utf8 is None], "prom")

    def operator(self) -> str | None:
        return self.chance.choice([None, "ann"])

    def service(self) -> str:
        return self.chance.choice(["orders", "orders", "orders", "billing"])

    def object_key(self) -> str:
        return f"key-{self.chance.randrange(3)}"

    def promise_id(self) -> str:
        return promise_id("orders", self.object_key(), "done")

    def versions(self) -> Versions | None:
        return self.chance.choice([None, None, Versions(handler=2), Versions(markers={"route": 1})])

    def event_id(self) -> str:
        return self.one_of(list(self.tables.effects), "evt")

    def begin(self) -> Begin:
        begin = self.driver.a_begin(
            owner=self.chance.choice([None, *OWNERS]),
            delay_ms=self.chance.choice([0, 0, 500]),
            idempotency=self.idempotency() if self.chance.random() < 0.4 else None,
            service=self.chance.choice(["orders", "billing"]),
            first=self.chance.random() < 0.5,
        )
        if begin.first is not None and self.chance.random() < 0.7:
            begin = self.with_first_step(begin)
        return replace(
            begin,
            handler=self.chance.choice(["fulfil", "fulfil", "ship"]),
            build=self.chance.choice(["b1", "b1", None]),
            by=self.operator(),
            origin=self.chance.choice([None, "one"]),
            versions=self.versions(),
        )

    def idempotency(self) -> Idempotency:
        key, fingerprint = f"k{self.chance.randrange(8)}", f"f{self.chance.randrange(2)}"
        return Idempotency(scope="s", key=key, fingerprint=fingerprint)

    def with_first_step(self, begin: Begin) -> Begin:
        """The owner has done more than to ask for one awakeable."""
        done = self.done(begin.id, exclusive=False)
        ended = End(result=Resolution.of_json(b"1"), abandoned=tuple(each.id for each in done.awakeables))
        steps: list[Next] = [Continue(), Suspend(wake=0), ended]
        first = FirstStep(
            number=self.chance.choice([1, 2]),
            next=self.chance.choice(steps),
            awakeables=done.awakeables,
            schemas=done.schemas,
            effects=done.effects,
            calls=done.calls,
            called_off=done.called_off,
        )
        chunk = encode_chunk([self.driver.an_input(begin.service), *done.entries])
        return replace(begin, first=first, chunk=chunk)

    def enter(self) -> Begin:
        """An exclusive invocation of one of a few keys."""
        return self.driver.a_begin(
            service=self.service(),
            delay_ms=self.chance.choice([0, 0, 0, 500]),
            key=self.object_key(),
            queue=Queue(most=self.chance.choice([None, 5])),
        )

    def pause_key(self) -> Command:
        return PauseKey(service=self.service(), key=self.object_key(), by=self.operator())

    def pause_handlers(self) -> Command:
        target = self.chance.choice(["orders", "orders/fulfil"])
        return PauseHandlers(target=target, paused=self.chance.random() < 0.5, by=self.operator())

    def resume_key(self) -> Command:
        return ResumeKey(service=self.service(), key=self.object_key(), by=self.operator())

    def edit(self) -> Command:
        writes = self.writes()
        key = self.object_key()
        return EditState(service=self.service(), key=key, writes=writes, by=self.operator())

    def expire_state(self) -> Command:
        before_ms = self.driver.clock.ms - self.chance.choice([0, 500])
        after = self.chance.choice([b"", b"key-0"])
        limit = self.chance.choice([1, 100])
        return ExpireState(service=self.service(), before_ms=before_ms, limit=limit, after=after)

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
        rows = list(self.tables.invocations.values())
        running = [row for row in rows if row.owner is not None]
        if not running:
            return self.claim()
        row = self.chance.choice(running if self.chance.random() < 0.9 else rows)
        stale = self.chance.random() < 0.1
        step = self.step(row)
        done = self.done(row.id, exclusive=row.ticket is not None)
        mine = [each.id for each in self.waits_of(row.id) if each.state == "pending"]
        cancels = self.some([*mine, *(each.id for each in done.awakeables)])
        grows = bool(done.entries or done.effects)
        return Advance(
            invocation_id=row.id,
            owner=row.owner or "one",
            epoch=row.epoch - stale,
            version=row.version,
            number=row.commits + self.chance.choice([1, 1, 1, 1, 0]),
            build=self.chance.choice(["b1", "b2"]),
            next=step,
            chunk=encode_chunk([ClockRead(at_ms=1), *done.entries]) if grows else None,
            awakeables=done.awakeables,
            schemas=done.schemas,
            effects=done.effects,
            calls=done.calls,
            called_off=done.called_off,
            cancels=cancels if row.cancelled_ms is not None or self.chance.random() < 0.05 else (),
            writes=self.writes() if row.ticket else (),
            dead_letter=self.letter() if type(step) is End and self.chance.random() < 0.3 else None,
            relay_to=DLQ,
            markers={"route": self.chance.choice([1, 2])} if grows and self.chance.random() < 0.2 else {},
            attempts=self.chance.choice([0, 0, 1, 3]),
        )

    def done(self, invocation_id: str, *, exclusive: bool) -> Done:
        """What an owner has done since its last commit."""
        made = [self.awakeable() for _ in range(self.chance.choice([0, 1, 3]))]
        entries: list[Entry] = [AwakeableCreated(id=each.id, timeout_ms=each.timeout_ms) for each in made]
        waits, calls = [self.attached(invocation_id)] if self.chance.random() < 0.3 else [], []
        entries += [AttachRequested(id=each.source or "", wait=each.id) for each in waits]
        for _ in range(self.chance.choice([0, 0, 1, 2])):
            call, wait = self.call(invocation_id, exclusive=exclusive)
            calls.append(call)
            if wait is not None:
                waits.append(wait)
                entries.append(
                    CallRequested(id=call.id, wait=wait.id, service=call.service, handler=call.handler)
                )
        carried = [*(each.id for each in made), None, self.awakeable_id(waits=False)]
        mine = [each.id for each in self.waits_of(invocation_id) if not each.owned]
        own = [*mine, *(each.id for each in made), *(each.id for each in calls)]
        return Done(
            entries=tuple(entries),
            awakeables=(*made, *waits),
            schemas=(("h1", b"{}"),) if made else (),
            effects=tuple(
                self.an_effect(invocation_id, self.chance.choice(carried))
                for _ in range(self.chance.choice([0, 1, 2]))
            ),
            calls=tuple(calls),
            called_off=self.some([*own, self.invocation_id()]) if self.chance.random() < 0.2 else (),
        )

    def some(self, known: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.chance.sample(known, self.chance.randint(0, min(2, len(known)))))

    def waits_of(self, invocation_id: str) -> list[AwakeableRow]:
        """The awakeables of an invocation, and its waits for calls and promises."""
        rows = self.tables.awakeables.values()
        return [row for row in rows if row.invocation_id == invocation_id and row.source_utf8 != PROMISE]

    def awakeable(self) -> NewAwakeable:
        codec: CodecKind = self.chance.choice(["json", "json", "bytes"])
        # Only JSON can be handed to a handler.
        on_late = [None, LATE_LETTER, *(["orders/late", "orders/late@2"] if codec == "json" else [])]
        is_watched = self.chance.random() < 0.4
        return NewAwakeable(
            id=self.driver.id("prom"),
            timeout_ms=self.chance.choice([None, 0, 300, 2000]),
            schema_hash=self.chance.choice([None, None, "h1"]),
            codec=codec,
            type_name=self.chance.choice([None, "Parcel"]),
            heartbeat_ms=self.chance.choice([None, 200, 1000]) if is_watched else None,
            on_late=self.chance.choice(on_late) if is_watched else None,
            revoke_to=self.chance.choice([None, "shop.revocations"]) if is_watched else None,
        )

    def an_effect(self, invocation_id: str, task_for: str | None) -> Effect:
        value = self.chance.choice([b"{}", b"{}", None])
        effect = self.driver.an_effect(invocation_id, task_for=task_for, value=value)
        return replace(effect, topic=self.chance.choice([effect.topic, "others"]))

    def attached(self, invocation_id: str) -> NewAwakeable:
        """A wait for a promise, or for an invocation that was begun elsewhere, by its ID or one for it."""
        aliases = [id_ for scope, id_ in self.tables.keys if scope in (ALIAS, CONFLICT)]
        gone = self.driver.id("inv", at_ms=self.driver.clock.ms - RETENTION_MS - 1)
        held = [id_ for queue in self.tables.rows.objects.values() if queue and (id_ := queue.head)]
        sources = [self.promise_id(), self.promise_id(), self.invocation_id(), self.invocation_id()]
        sources += [self.chance.choice(known) for known in (aliases, held) if known]
        source = self.chance.choice([*sources, invocation_id if self.chance.random() < 0.1 else gone])
        return NewAwakeable(id=self.driver.id("prom"), source=source)

    def call(self, caller: str, *, exclusive: bool) -> tuple[NewCall, NewAwakeable | None]:
        """A call, and the caller's wait for its end; None: it is only sent."""
        kind = self.chance.choice(["plain", "plain", "keyed", "exclusive", "exclusive", "run", "shared"])
        waits = self.chance.random() < 0.7
        service = self.service() if kind in ("plain", "exclusive") else "orders"
        key = None if kind in ("plain", "keyed") else self.object_key()
        workflow, idempotency = None, self.idempotency() if kind == "keyed" else None
        if kind in ("run", "shared"):
            workflow = self.workflow(key or "", is_run=kind == "run")
            idempotency = self.once(key or "") if kind == "run" else None
        callers = (caller,) if exclusive and waits else ()
        created = [PromiseCreated(id=each.id, name="done") for each in workflow.promises] if workflow else []
        call = NewCall(
            id=self.driver.id("inv"),
            service=service,
            handler=self.chance.choice(["fulfil", "ship"]),
            chunk=encode_chunk([replace(self.driver.an_input(service), caller=caller), *created]),
            delay_ms=0 if waits else self.chance.choice([0, 0, 300]),
            idempotency=idempotency,
            key=key,
            queue=Queue(most=self.chance.choice([None, 3]) if waits else None, callers=callers)
            if kind == "exclusive"
            else None,
            workflow=workflow,
            versions=self.versions(),
        )
        owned = kind not in ("keyed", "run")
        return call, NewAwakeable(id=self.driver.id("prom"), source=call.id, owned=owned) if waits else None

    def workflow(self, key: str, *, is_run: bool) -> OfWorkflow:
        codec: CodecKind = self.chance.choice(["json", "bytes"])
        promise = NewAwakeable(id=promise_id("orders", key, "done"), codec=codec, title="done")
        return OfWorkflow(is_run=is_run, scope="run", promises=(promise,) if is_run else ())

    def once(self, key: str) -> Idempotency:
        """What the run of a key is begun once by."""
        return Idempotency(scope="run", key=key, fingerprint=f"f{self.chance.randrange(2)}")

    def step(self, row: Invocation) -> Next:
        now_ms = self.driver.clock.ms
        failure = Failure(kind="k", message="m", at_ms=now_ms)
        mine = [each.id for each in self.waits_of(row.id)]
        steps: list[Next] = [
            Continue(),
            Continue(),
            Suspend(wake=self.chance.choice([row.wake, max(0, row.wake - 1)])),
            Suspend(wake=row.wake, due_ms=now_ms + 400),
            BackOff(due_ms=now_ms + 100, failure=replace(failure, tries=self.chance.choice([{}, {0: 2}]))),
            Pause(failure=failure),
            End(result=self.result(), abandoned=tuple(mine)),
        ]
        return self.chance.choice(steps)

    def result(self) -> Outcome:
        outcomes: list[Outcome] = [
            Resolution.of_json(b"0.10"),
            Resolution.of_bytes(b"\x00"),
            Rejection(reason="sold out", code=418),
            CANCELLED_OUTCOME,
        ]
        return self.chance.choice(outcomes)

    def settle(self) -> Command:
        count = self.chance.choice([1, 1, 2, 20])
        completions = tuple(self.completion() for _ in range(count))
        reports = {
            place: self.letter_of_task(each.body, each.awakeable_id)
            for place, each in enumerate(completions)
            if isinstance(each.body, DeadTask)
        }
        places = [place for place in range(count) if place in reports or self.chance.random() < 0.5]
        fence = self.fence() if self.chance.random() < 0.6 else None
        offsets = () if fence is None else tuple(range(fence.first, fence.first + count))
        return Settle(
            completions=completions,
            fence=fence,
            offsets=offsets if self.chance.random() < 0.7 else (),
            held_back_to_ms=self.chance.choice([None, None, self.driver.clock.ms - 1000]),
            originals={place: self.letter() for place in places},
            dead_letters=tuple(self.letter() for _ in range(self.chance.choice([0, 0, 2]))),
            dead_tasks=reports,
            relay_to=DLQ,
            folding=self.folding(),
            **self.verdicts(count),
        )

    def folding(self) -> Folding | None:
        return self.chance.choice([None, None, FOLDING, replace(FOLDING, into="dlq_other", keep=2)])

    def verdicts(self, count: int) -> dict[str, Any]:
        if self.chance.random() < 0.7:
            return {}
        return {
            "verdicts_to": "shop.verdicts",
            "verdict_ids": tuple(self.driver.id("evt") for _ in range(count)),
        }

    def completion(self) -> Completion:
        body: Resolution | Rejection | Heartbeat | DeadTask | None = self.chance.choice(
            [
                Resolution.of_json(self.chance.choice(VALUES)),
                Resolution.of_json(self.chance.choice(VALUES)),
                Resolution.of_bytes(b"\xff"),
                Rejection(reason=self.chance.choice("ab")),
                Heartbeat(progress=Raw(self.chance.choice([b"null", b"0.40"]))),
                self.dead_task(),
                None,
            ]
        )
        mistyped = self.chance.random() < 0.002
        return Completion(
            awakeable_id="prom_1mistyped" if mistyped else self.answered_id(),
            body=body,
            source=f"t:0:{self.chance.randrange(500)}",
            event_id=self.chance.choice([None, "e1", "e2"]),
            worker=self.chance.choice([None, "w1"]),
            attempt=self.chance.choice([None, 2]),
            trace=self.chance.choice([None, "00-1-2-01"]),
            checked=self.chance.choice([None, "h1"]),
            refusal="no" if body is None or self.chance.random() < 0.05 else None,
        )

    def answered_id(self) -> str:
        """Often one of an awakeable that takes a late answer."""
        rows = [row for row in self.tables.awakeables.values() if row.state in ("timed-out", "cancelled")]
        late = [row.id for row in rows if row.watch.on_late and row.watch.late_id is None]
        return self.chance.choice(late) if late and self.chance.random() < 0.3 else self.awakeable_id()

    def dead_task(self) -> DeadTask:
        place = self.chance.randrange(9)
        return DeadTask(
            code="bad", reason="no", topic="pack-requests", partition=0, offset=place, timestamp_ms=5
        )

    def letter_of_task(self, task: DeadTask, awakeable_id: str) -> DeadLetter:
        return dead_letter_of_task(
            task,
            letter_id=self.driver.id("dlq"),
            awakeable_id=awakeable_id,
            worker="w1",
            now_ms=self.driver.clock.ms,
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
        begins = [self.beginning() for _ in range(count)]
        return BeginBatch(
            fence=fence,
            begins=tuple(replace(begin, subscription=SUBSCRIPTION, delay_ms=0) for begin in begins),
            offsets=tuple(fence.first + place for place in range(count)),
            dead_letters=tuple(self.letter() for _ in range(self.chance.choice([0, 0, 1, 3]))),
            relay_to=DLQ,
            folding=self.folding(),
        )

    def beginning(self) -> Begin:
        """What a record, or a tick, begins."""
        makes = [self.begin_alone, self.begin_alone, self.enter, self.enter, self.the_run]
        return self.chance.choice(makes)()

    def run(self) -> Begin:
        """A run of a workflow, or a call of its other handlers, of one of a few keys."""
        if self.chance.random() < 0.6:
            return self.the_run()
        key = self.object_key()
        return replace(self.driver.a_begin(key=key), workflow=self.workflow(key, is_run=False))

    def the_run(self) -> Begin:
        key = self.object_key()
        workflow = self.workflow(key, is_run=True)
        created = [PromiseCreated(id=each.id, name="done") for each in workflow.promises]
        return replace(
            self.driver.a_begin(key=key),
            chunk=encode_chunk([self.driver.an_input(), *created]),
            idempotency=self.once(key),
            workflow=workflow,
        )

    def promised(self) -> Command:
        completion = replace(self.completion(), awakeable_id=self.promise_id(), of_promise=True)
        if isinstance(completion.body, DeadTask):
            completion = replace(completion, body=Rejection(reason="no"))
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
        return PausePartitions(
            subscription=SUBSCRIPTION,
            topic=TOPIC,
            partitions=self.chance.choice([(0, 1), (0, 1), (1,)]),
            paused=self.chance.random() < 0.5,
        )

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
        return Tick(at_ms=at_ms, begin=replace(self.beginning(), delay_ms=0))

    def begin_scheduled(self) -> Command:
        """A tick that waits, or one by hand; or a pause."""
        name = self.chance.choice(SCHEDULES)
        row = self.tables.schedules.get(name)
        declared = row.declared if row else ("orders", "fulfil", b"{}")
        if self.chance.random() < 0.4:
            next_ms = self.driver.clock.ms + self.chance.choice([-10, 10])
            return PauseSchedule(schedule=name, paused=self.chance.random() < 0.4, next_ms=next_ms)
        if row is not None and row.queued_ms is not None and self.chance.random() < 0.8:
            last = self.tables.invocations.get(row.last_invocation or "")
            if last is not None and last.status != "completed" and self.chance.random() < 0.5:
                return Kill(invocation_id=last.id)
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
            not_handlers=self.chance.choice([(), (), (), ("orders/fulfil",), ("orders/fulfil@2",)]),
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
        return Resume(invocation_id=self.invocation_id(), by=self.operator())

    def pause(self) -> Command:
        return PauseInvocation(invocation_id=self.invocation_id(), by=self.operator())

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
            by=self.operator(),
            versions=self.versions(),
        )

    def cancel(self) -> Command:
        return Cancel(invocation_id=self.invocation_id(), by=self.operator())

    def kill(self) -> Command:
        return Kill(invocation_id=self.invocation_id(), by=self.operator())

    def replay_dry(self) -> Command:
        return ReplayDry(invocation_id=self.invocation_id(), ends=self.chance.random() < 0.5)

    def purge(self) -> Command:
        # Of one that has not ended, the awakeables that it may create before it is purged are not known.
        rows = self.tables.invocations
        some = {self.invocation_id() for _ in range(4)}
        ids = {key for key in some if key not in rows or rows[key].status == "completed"}
        mine = {
            key: tuple(a.id for a in self.tables.awakeables.values() if a.invocation_id == key) for key in ids
        }
        before_ms = self.driver.clock.ms - self.chance.choice([0, 500, 3000])
        self.purged |= ids
        return Purge(ended=tuple(Ended(id=key, awakeables=mine[key]) for key in ids), before_ms=before_ms)

    def purge_letters(self) -> Command:
        before_ms = self.driver.clock.ms - self.chance.choice([500, 3000])
        return PurgeDeadLetters(
            before_ms=before_ms,
            limit=self.chance.choice([1, 5]),
            code=self.chance.choice([None, None, "unreadable", "unknown"]),
            dead_letters_only=self.chance.random() < 0.3,
        )

    def resend(self) -> Command:
        letter_id = self.one_of(list(self.tables.dead_letters), "dlq")
        return Resend(dead_letter_id=letter_id, event_id=self.driver.id("evt"), by=self.operator())

    def republish(self) -> Command:
        failed = self.chance.random() < 0.8
        event_id = self.one_of(list(self.tables.failed), "evt") if failed else self.event_id()
        return Republish(event_id=event_id, by=self.operator())

    def skip(self) -> Command:
        subscription = self.chance.choice(["", SUBSCRIPTION])
        partition = self.chance.randrange(2)
        held = self.tables.positions.get((subscription, TOPIC, partition))
        before = (held.next if held else 0) + self.chance.choice([0, 0, 1])
        return Skip(
            topic=TOPIC,
            partition=partition,
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
            partitions=self.chance.choice([(0, 1), (0, 1), (1,)]),
            topic_id=self.chance.choice([None, "first", "second"]),
            subscription=self.chance.choice(["", SUBSCRIPTION]),
        )

    def effects(self) -> Command:
        return ClaimEffects(owner=self.chance.choice(OWNERS), limit=self.chance.choice([1, 5, 100]))

    def sent(self) -> Command:
        return MarkPublished(event_ids=tuple(self.event_id() for _ in range(self.chance.randrange(4))))

    def refused(self) -> Command:
        return MarkRefused(event_id=self.event_id(), reason=self.chance.choice(["too large", "no topic"]))
