"""Puts a store through its paces: short verbs over `Store.commit`, on a clock that stands still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from awakeables.core.awakeables import AwakeableRow, Completion, Heartbeat, Verdict
from awakeables.core.commands import (
    Advance,
    Begin,
    Claim,
    ClaimEffects,
    Command,
    FirstStep,
    Idempotency,
    NewAwakeable,
    NewCall,
    Queue,
    Settle,
    TakePartitions,
)
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, EffectState, TaskFacts
from awakeables.core.ids import IdKind
from awakeables.core.invocations import Continue, End, Invocation, Next, Suspend
from awakeables.core.journal import AttachRequested, AwakeableCreated, Entry, Input, encode_chunk
from awakeables.core.objects import StateWrite
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.replies import (
    Acknowledged,
    Advanced,
    Begun,
    Claimed,
    ClaimedEffects,
    PartitionsTaken,
    Reply,
    SettledAll,
)
from awakeables.ports import Page, Store
from support.ids import new_id

A = TypeVar("A", bound=Reply)

START_MS = 1_750_000_000_000
RETENTION_MS = 30 * 24 * 3600 * 1000
DLQ = "shop.completions.dlq"
TOPIC = "shop.completions"


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class Driver:
    """A store, its clock, and IDs that count."""

    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self._issued = 0

    def id(self, kind: IdKind, *, at_ms: int | None = None) -> str:
        self._issued += 1
        entropy = self._issued.to_bytes(10, "big")
        return new_id(kind, at_ms=self.clock.ms if at_ms is None else at_ms, entropy=entropy)

    async def do(self, kind: type[A], member: Command) -> A:
        """Commit one member, whose answer is of this kind."""
        (answer,) = await self.store.commit([member])
        assert isinstance(answer, kind), answer
        return answer

    async def acknowledged(self, member: Command) -> bool:
        """Commit a member that is only acknowledged, and wakes nobody."""
        return await self.do(Acknowledged, member) == Acknowledged()

    # ── orders ──────────────────────────────────────────────────────────────────────────────

    def a_begin(
        self,
        *,
        owner: str | None = None,
        delay_ms: int = 0,
        idempotency: Idempotency | None = None,
        service: str = "orders",
        handler: str = "fulfil",
        first: bool = False,
        key: str | None = None,
        queue: Queue | None = None,
        subscription: str | None = None,
    ) -> Begin:
        """With `first` its owner, if it has one, has asked for an awakeable, published its task and waits."""
        id_ = self.id("inv")
        step = self.a_first_step(id_) if first and owner is not None else None
        return Begin(
            id=id_,
            service=service,
            handler=handler,
            chunk=encode_chunk(
                [self.an_input(service, handler), *created(() if step is None else step.awakeables)]
            ),
            owner=owner,
            delay_ms=delay_ms,
            idempotency=idempotency,
            build="b1",
            first=step,
            key=key,
            queue=queue,
            subscription=subscription,
        )

    def an_input(self, service: str = "orders", handler: str = "fulfil") -> Input:
        return Input(service=service, handler=handler, seed="5eed", at_ms=START_MS)

    def a_first_step(self, invocation_id: str, step: Next | None = None) -> FirstStep:
        awakeable = NewAwakeable(id=self.id("prom"), timeout_ms=500, schema_hash="h1")
        self._issued += 1
        return FirstStep(
            number=self._issued,
            next=Suspend(wake=0) if step is None else step,
            awakeables=(awakeable,),
            schemas=(("h1", b"{}"),),
            effects=(self.an_effect(invocation_id, task_for=awakeable.id),),
        )

    def an_advance(
        self,
        row: Invocation,
        step: Next | None = None,
        *,
        chunk: bytes | Literal["created"] | None = "created",
        awakeables: Sequence[NewAwakeable] = (),
        schemas: Sequence[tuple[str, bytes]] = (),
        effects: Sequence[Effect] = (),
        calls: Sequence[NewCall] = (),
        writes: Sequence[StateWrite] = (),
    ) -> Advance:
        """An owner's commit; its journal has the awakeables that it creates, unless a chunk is given."""
        assert row.owner is not None
        self._issued += 1
        return Advance(
            invocation_id=row.id,
            owner=row.owner,
            epoch=row.epoch,
            version=row.version,
            number=self._issued,
            build="b2",
            next=Continue() if step is None else step,
            chunk=encode_chunk(created(awakeables)) if chunk == "created" else chunk,
            awakeables=tuple(awakeables),
            schemas=tuple(schemas),
            effects=tuple(effects),
            calls=tuple(calls),
            writes=tuple(writes),
        )

    def a_call(
        self,
        caller: Invocation,
        *,
        key: str | None = None,
        delay_ms: int = 0,
        object_key: str | None = None,
        queue: Queue | None = None,
    ) -> NewCall:
        """An invocation that a handler calls; all calls with one idempotency key are of one request."""
        given = Input(
            service="parcels", handler="pack", seed="5eed", at_ms=START_MS, caller=caller.id, depth=1
        )
        idempotency = key and Idempotency(scope="parcels/pack", key=key, fingerprint="f")
        return NewCall(
            id=self.id("inv"),
            service="parcels",
            handler="pack",
            chunk=encode_chunk([given]),
            delay_ms=delay_ms,
            idempotency=idempotency or None,
            key=object_key,
            queue=queue,
        )

    def a_wait(self, source: str, *, owned: bool = True) -> NewAwakeable:
        return NewAwakeable(id=self.id("prom"), source=source, owned=owned)

    def an_effect(self, stream: str, *, task_for: str | None = None, value: bytes | None = b"{}") -> Effect:
        facts = None if task_for is None else TaskFacts(awakeable_id=task_for, reply_to=TOPIC, task="pack")
        return Effect(
            event_id=self.id("evt"),
            stream=stream,
            topic="pack-requests",
            key=b"k",
            value=value,
            headers=(("a", b"1"), ("a", None)),
            task=facts,
            created_ms=self.clock.ms,
            kind="event" if facts is None else "task",
        )

    def a_letter(self, *, offset: int, code: str = "unreadable") -> DeadLetter:
        return DeadLetter(
            id=self.id("dlq"),
            source=f"{TOPIC}:0:{offset}",
            topic=TOPIC,
            partition=0,
            offset=offset,
            timestamp_ms=START_MS - 5,
            code=code,
            reason="not JSON",
            at_ms=self.clock.ms,
            key=b"\x00\xff",
            value=b"{broken \xfe",
            headers=(("h", b"\x80"), ("h", None)),
            awakeable_id="as it was written: \x00",
        )

    # ── steps ───────────────────────────────────────────────────────────────────────────────

    async def begin(
        self,
        *,
        owner: str | None = None,
        delay_ms: int = 0,
        service: str = "orders",
        handler: str = "fulfil",
        key: str | None = None,
        queue: Queue | None = None,
        subscription: str | None = None,
    ) -> Invocation:
        order = self.a_begin(
            owner=owner,
            delay_ms=delay_ms,
            service=service,
            handler=handler,
            key=key,
            queue=queue,
            subscription=subscription,
        )
        await self.do(Begun, order)
        return await self.invocation(order.id)

    async def claim(self, owner: str = "me", *, limit: int = 100, suspect: bool = True) -> list[Invocation]:
        order = Claim(owner=owner, limit=limit, suspect=suspect)
        return list((await self.do(Claimed, order)).invocations)

    async def advance(self, row: Invocation, step: Next | None = None) -> Invocation:
        return (await self.do(Advanced, self.an_advance(row, step))).invocation

    async def end(self, row: Invocation, *abandoned: str) -> Invocation:
        return await self.advance(row, End(result=Resolution.of_json(b"1"), abandoned=abandoned))

    async def waiting(self, *, timeout_ms: int | None = None, owner: str = "me") -> tuple[Invocation, str]:
        """An invocation that is suspended until its only awakeable is settled."""
        row, (awakeable_id,) = await self.running_with(
            NewAwakeable(id=self.id("prom"), timeout_ms=timeout_ms)
        )
        return await self.advance(row, Suspend(wake=0)), awakeable_id

    async def running_with(
        self, *awakeables: NewAwakeable, schemas: Sequence[tuple[str, bytes]] = ()
    ) -> tuple[Invocation, list[str]]:
        """A running invocation that has created these awakeables."""
        row = await self.begin(owner="me")
        order = self.an_advance(row, awakeables=awakeables, schemas=schemas)
        row = (await self.do(Advanced, order)).invocation
        return row, [new.id for new in awakeables]

    async def settle(self, *completions: Completion, held_back_to_ms: int | None = None) -> SettledAll:
        return await self.do(SettledAll, Settle(completions=completions, held_back_to_ms=held_back_to_ms))

    async def verdict(self, completion: Completion) -> Verdict:
        (verdict,) = (await self.settle(completion)).verdicts
        assert verdict is not None
        return verdict

    async def take(self, *partitions: int, owner: str = "me", topic_id: str | None = None) -> list[int]:
        """The epochs of these partitions, taken."""
        command = TakePartitions(owner=owner, topic=TOPIC, partitions=partitions, topic_id=topic_id)
        answer = await self.do(PartitionsTaken, command)
        return [position.epoch for position in answer.positions]

    async def claim_effects(self, owner: str = "me", *, limit: int = 100) -> list[Effect]:
        claimed = await self.do(ClaimedEffects, ClaimEffects(owner=owner, limit=limit))
        found = [await self.store.queued_effect(event_id) for event_id in claimed.effect_ids]
        return [row.effect for row in found if row is not None]

    async def effects(self, state: EffectState, limit: int) -> list[Effect]:
        """The effects in this state, oldest first, whoever has claimed them."""
        queued = await self.store.queued_effects(Page(limit=10**6), state=state)
        found = [await self.store.queued_effect(row.id) for row in queued]
        effects = [row.effect for row in found if row is not None]
        return sorted(effects, key=lambda effect: effect.event_id)[:limit]

    # ── what is there ───────────────────────────────────────────────────────────────────────

    async def invocation(self, invocation_id: str) -> Invocation:
        row = await self.store.invocation(invocation_id)
        assert row is not None
        return row

    async def awakeable(self, awakeable_id: str) -> AwakeableRow:
        row = await self.store.awakeable(awakeable_id)
        assert row is not None
        return row


def created(awakeables: Sequence[NewAwakeable]) -> list[Entry]:
    """What a journal has of new awakeables, and of waits for calls."""
    return [
        AwakeableCreated(id=each.id, timeout_ms=each.timeout_ms)
        if each.source is None
        else AttachRequested(id=each.source, wait=each.id)
        for each in awakeables
    ]


def resolved(
    awakeable_id: str, value: bytes = b'{"parcel":9}', *, source: str = "t:0:1", checked: str | None = None
) -> Completion:
    return Completion(
        awakeable_id=awakeable_id,
        body=Resolution.of_json(value),
        source=source,
        event_id="e1",
        checked=checked,
    )


def rejected(awakeable_id: str, reason: str = "no", *, source: str = "t:0:1") -> Completion:
    return Completion(awakeable_id=awakeable_id, body=Rejection(reason=reason, code=409), source=source)


def unreadable(awakeable_id: str, *, source: str = "t:0:1") -> Completion:
    return Completion(awakeable_id=awakeable_id, body=None, source=source, refusal="status is missing")


def beating(awakeable_id: str, progress: bytes = b"0.40", *, source: str = "t:0:1") -> Completion:
    body = Heartbeat(progress=Resolution.of_json(progress).value)  # type: ignore[arg-type]
    return Completion(awakeable_id=awakeable_id, body=body, source=source, worker="w1")
