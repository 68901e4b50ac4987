"""The rows that commands are decided on, and the changes that decisions make.

A store loads rows by key, `core/decide/` decides on them, and the store writes what changed. The rows
may come from a dict of everything (memory), be loaded for this commit, or be cached from an earlier one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from awakeables.core import invocations
from awakeables.core.acts import Acts, acts_from
from awakeables.core.awakeables import AwakeableRow, Verdict
from awakeables.core.commands import Ended, Idempotency
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, EffectKind, EffectState, Header, QueuedEffect, task_facts_from
from awakeables.core.ids import is_promise
from awakeables.core.invocations import Invocation
from awakeables.core.objects import ObjectKey, ObjectRow, StateWrite
from awakeables.core.outcomes import Outcome, Rejection
from awakeables.core.pauses import PauseRow
from awakeables.core.records import Row, text_bytes, text_from
from awakeables.core.replies import Position, Wake
from awakeables.core.revocations import revocation
from awakeables.core.schedules import ScheduleRow
from awakeables.core.sealed import Unopened, text_or_problem

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TableName: TypeAlias = Literal[
    "invocations",
    "awakeables",
    "effects",
    "dead_letters",
    "sources",
    "keys",
    "positions",
    "waiting",
    "pending",
    "objects",
    "queue",
    "states",
    "schedules",
    "pauses",
]

PartitionKey: TypeAlias = tuple[str, str, int]
"""A subscription, empty for completions; a topic; and the number of its partition."""

UNCLAIMED = ""
"""`claimed_by` of an effect that any owner's relay may take next."""

PLACES = 20
"""An effect's position is the journal's version, shifted by this many bits, plus its place in the commit."""

_encode = msgspec.json.Encoder().encode
_decode_verdict = msgspec.json.Decoder(Verdict).decode
_decode_headers = msgspec.json.Decoder(tuple[Header, ...]).decode


class EffectRow(Row):
    """An effect in the outbox.

    Attributes:
        claimed_by: The owner whose relay publishes it.
        reason: Why Kafka refused it, if it has failed.
        facts_json: A task's facts, or a verdict.
        position: Its position in its stream; a stream's effects are published in this order.
    """

    event_id: str
    stream: str
    claimed_by: str
    state: EffectState
    created_ms: int
    topic: str
    reason_utf8: bytes | None = None
    facts_json: bytes | None = None
    headers_json: bytes | None = None
    key: bytes | None = None
    value: bytes | None = None
    acts_json: bytes | None = None
    position: int = 0
    kind: EffectKind = "event"

    @property
    def effect(self) -> Effect:
        """The effect; if a part of it can't be read, its value is that part, which is not to be sent."""
        facts = self.facts_json
        for part in (self.value, self.key, facts, self.headers_json):
            if isinstance(part, Unopened):
                return self._unopened(part)
        verdict = None if facts is None or self.kind != "verdict" else _decode_verdict(facts)
        return Effect(
            event_id=self.event_id,
            stream=self.stream,
            topic=self.topic,
            key=self.key,
            value=self.value,
            headers=headers_from(self.headers_json),
            task=None if facts is None or verdict is not None else task_facts_from(facts),
            created_ms=self.created_ms,
            kind=self.kind,
            verdict=verdict,
        )

    def _unopened(self, part: Unopened) -> Effect:
        return Effect(
            event_id=self.event_id,
            stream=self.stream,
            topic=self.topic,
            key=None,
            value=part,
            created_ms=self.created_ms,
            kind=self.kind,
        )

    @property
    def reason(self) -> str | None:
        return None if self.reason_utf8 is None else text_or_problem(self.reason_utf8)

    @property
    def acts(self) -> Acts:
        return acts_from(self.acts_json)

    @property
    def queued(self) -> QueuedEffect:
        return QueuedEffect(effect=self.effect, state=self.state, reason=self.reason, acts=self.acts)


def effect_row(effect: Effect, owner: str, position: int) -> EffectRow:
    """The row of an unsent effect that is claimed by an owner."""
    facts = effect.task or effect.verdict
    return EffectRow(
        effect.event_id,
        effect.stream,
        owner,
        "unsent",
        effect.created_ms,
        effect.topic,
        None,
        None if facts is None else _encode(facts),
        _encode(effect.headers) if effect.headers else None,
        effect.key,
        effect.value,
        None,
        position,
        effect.kind,
    )


def headers_bytes(headers: tuple[Header, ...]) -> bytes | None:
    return _encode(headers) if headers else None


def headers_from(content: bytes | None) -> tuple[Header, ...]:
    return _decode_headers(content) if content else ()


class PositionRow(Row):
    """How far a partition was read and who reads it; most of it as in `Position`.

    Attributes:
        subscription: The name of the subscription that reads it; empty: it is of the completions topic.
    """

    subscription: str
    topic: str
    partition: int
    next: int = 0
    epoch: int = 0
    owner: str | None = None
    again_before: int = 0
    topic_id: str | None = None
    paused_ms: int | None = None

    @property
    def position(self) -> Position:
        return Position(
            partition=self.partition,
            next=self.next,
            epoch=self.epoch,
            again_before=self.again_before,
            topic_id=self.topic_id,
            owner=self.owner,
            paused_ms=self.paused_ms,
        )


class KeyRow(Row):
    """An idempotency key and the invocation that it stands for."""

    scope: str
    key: str
    invocation_id: str


class Chunk(Row):
    """A part of a journal, as one commit appended it."""

    invocation_id: str
    version: int
    content: bytes


class NotLoaded(Exception):
    """A decision needs rows that are not loaded. It has changed nothing: load them and decide again."""

    def __init__(self, table: TableName, keys: Iterable[Hashable]) -> None:
        super().__init__(f"{table} {keys}")
        self.table = table
        self.keys = tuple(keys)


class Table(dict[K, V | None], Generic[K, V]):
    """Loaded rows of one table by key; None: the row does not exist. `[]` raises `NotLoaded` otherwise.

    `get` is for new keys, so that nothing is read to learn that a row is absent. If the row exists after
    all, the insert fails, and the command is decided again over loaded rows.
    """

    def __init__(self, name: TableName) -> None:
        super().__init__()
        self.name = name

    def __missing__(self, key: K) -> V | None:
        raise NotLoaded(self.name, (key,))

    def require(self, keys: Iterable[K]) -> None:
        """Raise `NotLoaded` with all of these keys that are not loaded, if any."""
        missing = [key for key in keys if key not in self]
        if missing:
            raise NotLoaded(self.name, missing)


class CompleteTable(Table[K, V]):
    """A table with every row: a key that is not in it does not exist."""

    def __missing__(self, key: K) -> V | None:
        return None

    def require(self, keys: Iterable[K]) -> None:
        pass


class Rows:
    """The rows that commands are decided on.

    Attributes:
        effects: Unsent and failed ones, by event ID.
        sources: The ID of the dead letter for a record, by the record's source.
        keys: The request's fingerprint and the invocation's ID, by scope and idempotency key.
        positions: By subscription, topic and partition.
        waiting: The IDs of the pending waits for an invocation's end, by that invocation.
        pending: The IDs of the pending awakeables, and waits for calls, of an invocation, by invocation.
        objects: The queues of the keys of objects.
        queue: The ID of the queued invocation of a key that comes first after a ticket, by the key and that.
        states: The names of the state of a key, by the key.
        schedules: By name.
        pauses: By target.
        retention_ms: An awakeable without a row whose ID is older than this was purged.
    """

    def __init__(self, retention_ms: int, table: type[Table[str, object]] = Table) -> None:
        """Make empty tables of this kind."""
        make: type[Table] = table  # type: ignore[type-arg]
        self.retention_ms = retention_ms
        self.invocations: Table[str, Invocation] = make("invocations")
        self.awakeables: Table[str, AwakeableRow] = make("awakeables")
        self.effects: Table[str, EffectRow] = make("effects")
        self.dead_letters: Table[str, DeadLetter] = make("dead_letters")
        self.sources: Table[str, str] = make("sources")
        self.keys: Table[tuple[str, str], tuple[str, str]] = make("keys")
        self.positions: Table[PartitionKey, PositionRow] = make("positions")
        self.waiting: Table[str, list[str]] = make("waiting")
        self.pending: Table[str, list[str]] = make("pending")
        self.objects: Table[ObjectKey, ObjectRow] = make("objects")
        self.queue: Table[tuple[ObjectKey, int], str] = make("queue")
        self.states: Table[ObjectKey, list[str]] = make("states")
        self.schedules: Table[str, ScheduleRow] = make("schedules")
        self.pauses: Table[str, PauseRow] = make("pauses")


class Changes:
    """What the commands of one commit have changed, for the store to write.

    Decisions change rows only by these methods, after all their reads and checks. Changes are written
    through to `rows`, so that the next decision sees them. The row before the first change is kept: the
    store writes the difference once, however often a row was changed, guarded by the old values.

    Attributes:
        chunks: Journal chunks to append: invocation, version, chunk, instant.
        published: Effects to delete that were not loaded.
        purged: Ended invocations to delete with everything that belongs to them. Like the dead letters
            and effects to delete, the store deletes them before the next decision.
        states: The state to write, by object's key and name: the value, None to delete it; and the instant.
        queued: The invocations that these commands have queued, by their keys.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.invocations: dict[str, Invocation | None] = {}
        self.awakeables: dict[str, AwakeableRow | None] = {}
        self.effects: dict[str, EffectRow | None] = {}
        self.dead_letters: dict[str, DeadLetter | None] = {}
        self.positions: dict[PartitionKey, PositionRow | None] = {}
        self.keys: dict[tuple[str, str], tuple[str, str] | None] = {}
        self.chunks: list[tuple[str, int, bytes, int]] = []
        self.schemas: dict[str, bytes] = {}
        self.published: list[str] = []
        self.purged: list[Ended] = []
        self.deleted_dead_letters: list[str] = []
        self.deleted_effects: list[str] = []
        self.probes = 0
        self.objects: dict[ObjectKey, ObjectRow | None] = {}
        self.states: dict[tuple[ObjectKey, str], tuple[bytes | None, int]] = {}
        self.queued: dict[ObjectKey, list[str]] = {}
        self.schedules: dict[str, ScheduleRow | None] = {}
        self.pauses: dict[str, PauseRow | None] = {}
        self._new_waits: dict[str, list[str]] = {}

    def put_invocation(self, before: Invocation | None, row: Invocation) -> None:
        self.invocations.setdefault(row.id, before)
        self.rows.invocations[row.id] = row

    def put_awakeable(self, before: AwakeableRow | None, row: AwakeableRow) -> None:
        self.awakeables.setdefault(row.id, before)
        self.rows.awakeables[row.id] = row
        if before is None and row.source_utf8 is not None:
            self._new_waits.setdefault(text_from(row.source_utf8), []).append(row.id)
        if row.watch_json is not None and (before is None or before.state == "pending"):
            effect = revocation(row)
            if effect is not None:
                self.put_effect(None, effect_row(effect, UNCLAIMED, 0))

    def waits_for(self, invocation_id: str) -> list[str]:
        """The waits for an invocation's end: those that were pending when it was loaded, and new ones."""
        known = () if self._is_new(invocation_id) else self.rows.waiting[invocation_id] or ()
        return list(dict.fromkeys([*known, *self._new_waits.get(invocation_id, ())]))

    def waits_of(self, invocation_id: str) -> list[str]:
        """The awakeables, and waits for calls, of an invocation: as `waits_for`."""
        new = (key for key, before in self.awakeables.items() if before is None)
        own = [key for key in new if _invocation_of(self.rows.awakeables[key]) == invocation_id]
        known = () if self._is_new(invocation_id) else self.rows.pending[invocation_id] or ()
        return list(dict.fromkeys([*known, *own]))

    def _is_new(self, invocation_id: str) -> bool:
        """Whether the invocation is created by this commit, so that the store has nothing of it."""
        return self.invocations.get(invocation_id, False) is None

    def put_effect(self, before: EffectRow | None, row: EffectRow) -> None:
        self.effects.setdefault(row.event_id, before)
        self.rows.effects[row.event_id] = row

    def put_position(self, before: PositionRow | None, row: PositionRow) -> None:
        place = (row.subscription, row.topic, row.partition)
        self.positions.setdefault(place, before)
        self.rows.positions[place] = row

    def put_object(self, before: ObjectRow | None, object_key: ObjectKey, row: ObjectRow | None) -> None:
        """Change, add or (None) delete the queue of a key."""
        self.objects.setdefault(object_key, before)
        self.rows.objects[object_key] = row

    def put_pause(self, before: PauseRow | None, target: str, row: PauseRow | None) -> None:
        """Add or (None) delete a pause."""
        self.pauses.setdefault(target, before)
        self.rows.pauses[target] = row

    def put_schedule(self, before: ScheduleRow | None, name: str, row: ScheduleRow | None) -> None:
        """Change, add or (None) delete a schedule."""
        self.schedules.setdefault(name, before)
        self.rows.schedules[name] = row

    def write_state(self, object_key: ObjectKey, writes: Iterable[StateWrite], now_ms: int) -> None:
        """Change the state of a key; the names of what is cleared as a whole are loaded."""
        for write in writes:
            if write.name is not None:
                self.states[object_key, write.name] = (write.value, now_ms)
                continue
            new = [name for key, name in self.states if key == object_key]
            for name in (*(self.rows.states[object_key] or ()), *new):
                self.states[object_key, name] = (None, now_ms)

    def put_dead_letter(self, before: DeadLetter | None, letter: DeadLetter) -> None:
        self.dead_letters.setdefault(letter.id, before)
        self.rows.dead_letters[letter.id] = letter
        self.rows.sources[letter.source] = letter.id

    def add_key(self, key: Idempotency, invocation_id: str) -> None:
        self.keys.setdefault((key.scope, key.key), None)
        self.rows.keys[key.scope, key.key] = (key.fingerprint, invocation_id)

    def delete_effect(self, before: EffectRow) -> None:
        if self.effects.setdefault(before.event_id, before) is None:
            # New to this commit, but it may be in the store: what has queued it may be sent again.
            self.published.append(before.event_id)
        self.rows.effects[before.event_id] = None

    def delete_published(self, event_ids: Iterable[str]) -> None:
        """Delete effects, loaded or not."""
        effects = self.rows.effects
        for event_id in event_ids:
            known = effects.get(event_id)
            if known is not None:
                self.delete_effect(known)
            elif event_id not in effects:
                self.published.append(event_id)
                effects[event_id] = None

    def require_waiting(self, invocation_ids: Iterable[str]) -> None:
        """Check that invocations to wake are loaded, before anything is changed, if `wake` reads them.

        Raises:
            NotLoaded: Some are not.
        """
        self.rows.invocations.require(invocation_ids)

    def wake(self, awakeable: AwakeableRow, outcome: Outcome, now_ms: int) -> Wake:
        """Count a wake-up in the transaction that causes it (hard case 1).

        A store in which several instances write at once counts in the database instead, and takes the
        number in the reply from there.
        """
        row = self.rows.invocations[awakeable.invocation_id]
        assert row is not None, f"{awakeable.id} has no invocation"
        woken = invocations.wake(row, now_ms=now_ms)
        self.invocations.setdefault(row.id, row)
        self.rows.invocations[row.id] = woken
        return Wake(
            invocation_id=row.id,
            wake=woken.wake,
            awakeable_id=awakeable.id,
            outcome=outcome,
            owner=woken.owner,
        )


class Draft:
    """Rows as a decision is about to change them.

    A decision makes all its reads and checks before its first change. One that goes from row to row, because
    the end of an invocation settles a wait of another one, reads here what it has decided so far.

    Attributes:
        now_ms: The instant of the decision.
        invocations: Those that it changes or adds: as they were, and as they will be.
        awakeables: The same.
        stopped: The IDs of the invocations that are cancelled or killed because another one is, or has ended.
        chunks: The beginnings of the journals of new invocations.
        woken: The waits that it settles, with their outcomes; their invocations are woken.
        objects: The queues of keys, as `invocations`.
        refused: The calls that it does not create, and why.
        conflicts: The calls that it does not create, because their keys were used for other requests.
    """

    __slots__ = (
        "_changes",
        "_keys",
        "_queued",
        "awakeables",
        "chunks",
        "conflicts",
        "invocations",
        "now_ms",
        "objects",
        "refused",
        "stopped",
        "woken",
    )

    def __init__(self, changes: Changes, now_ms: int) -> None:
        """Begin with the rows as they are."""
        self.now_ms = now_ms
        self.invocations: dict[str, tuple[Invocation | None, Invocation]] = {}
        self.awakeables: dict[str, tuple[AwakeableRow | None, AwakeableRow]] = {}
        self.stopped: list[str] = []
        self.chunks: list[tuple[str, bytes]] = []
        self.woken: list[tuple[AwakeableRow, Outcome]] = []
        self._changes = changes
        self._keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.objects: dict[ObjectKey, tuple[ObjectRow | None, ObjectRow | None]] = {}
        self.refused: dict[str, Rejection] = {}
        self.conflicts: list[str] = []
        self._queued: list[tuple[ObjectKey, str]] = []

    @property
    def retention_ms(self) -> int:
        """As in `Rows`."""
        return self._changes.rows.retention_ms

    def invocation(self, invocation_id: str) -> Invocation | None:
        known = self.invocations.get(invocation_id)
        return self._changes.rows.invocations[invocation_id] if known is None else known[1]

    def awakeable(self, awakeable_id: str) -> AwakeableRow | None:
        known = self.awakeables.get(awakeable_id)
        return self._changes.rows.awakeables[awakeable_id] if known is None else known[1]

    def key(self, scope: str, key: str) -> tuple[str, str] | None:
        """The fingerprint and the invocation of an idempotency key."""
        return self.new_key(scope, key) or self._changes.rows.keys[scope, key]

    def new_key(self, scope: str, key: str) -> tuple[str, str] | None:
        """The same, if it was added by this decision."""
        return self._keys.get((scope, key))

    def object(self, object_key: ObjectKey) -> ObjectRow | None:
        """The queue of a key."""
        known = self.objects.get(object_key)
        return self._changes.rows.objects[object_key] if known is None else known[1]

    def put_object(self, before: ObjectRow | None, object_key: ObjectKey, row: ObjectRow | None) -> None:
        """Change, add or (None) delete the queue of a key; `before` is the row as it was read here."""
        known = self.objects.get(object_key)
        self.objects[object_key] = (before if known is None else known[0], row)

    def queue(self, object_key: ObjectKey, invocation_id: str) -> None:
        """Note that an invocation is queued from now on."""
        self._queued.append((object_key, invocation_id))

    def next_in_line(self, object_key: ObjectKey, ticket: int) -> Invocation | None:
        """The queued invocation of a key that comes first after a ticket."""
        new = [key for at, key in self._queued if at == object_key]
        rows = [*map(self.invocation, (*self._changes.queued.get(object_key, ()), *new))]
        while (found := self._changes.rows.queue[object_key, ticket]) is not None:
            row = self.invocation(found)
            if row is None or row.status == "queued":
                rows.append(row)
                break
            ticket = row.ticket or 0  # it has ended by one of these commands
        waiting = [row for row in rows if row is not None and row.status == "queued"]
        return min(waiting, key=lambda row: row.ticket or 0, default=None)

    def put_invocation(self, before: Invocation | None, row: Invocation) -> None:
        """Change or add an invocation; `before` is the row as it was read here."""
        known = self.invocations.get(row.id)
        self.invocations[row.id] = (before if known is None else known[0], row)

    def put_awakeable(self, before: AwakeableRow | None, row: AwakeableRow) -> None:
        """Change or add an awakeable; `before` is the row as it was read here."""
        known = self.awakeables.get(row.id)
        self.awakeables[row.id] = (before if known is None else known[0], row)

    def add_key(self, scope: str, key: str, fingerprint: str, invocation_id: str) -> None:
        self._keys[scope, key] = (fingerprint, invocation_id)

    def waits_for(self, invocation_id: str) -> list[AwakeableRow]:
        """The pending waits for an invocation's end."""
        new = [
            key
            for key, (before, row) in self.awakeables.items()
            if before is None and row.source == invocation_id
        ]
        known = () if self._is_new(invocation_id) else self._changes.waits_for(invocation_id)
        return self._pending([*known, *new])

    def waits_of(self, invocation_id: str) -> list[AwakeableRow]:
        """The pending awakeables, and waits for calls, of an invocation."""
        new = [
            key
            for key, (before, row) in self.awakeables.items()
            if before is None and row.invocation_id == invocation_id
        ]
        known = () if self._is_new(invocation_id) else self._changes.waits_of(invocation_id)
        return self._pending([*known, *new])

    def only_wait_of(self, invocation_id: str) -> AwakeableRow | None:
        """The pending awakeable, or wait, of an invocation that has just one, the promises of a run aside."""
        own = [key for key, (_, row) in self.awakeables.items() if row.invocation_id == invocation_id]
        known = () if self._is_new(invocation_id) else self._changes.waits_of(invocation_id)
        keys = (key for key in dict.fromkeys([*known, *own]) if not is_promise(key))
        pending = [key for key in keys if not self._is_settled(key)]
        return self.awakeable(pending[0]) if len(pending) == 1 else None

    def _is_settled(self, awakeable_id: str) -> bool:
        """Whether it is known to be; those that are not loaded were found to be pending."""
        known = self.awakeables.get(awakeable_id)
        row = self._changes.rows.awakeables.get(awakeable_id) if known is None else known[1]
        return row is not None and row.state != "pending"

    def _is_new(self, invocation_id: str) -> bool:
        return self.invocations.get(invocation_id, (False,))[0] is None

    def _pending(self, ids: list[str]) -> list[AwakeableRow]:
        self._changes.rows.awakeables.require([key for key in ids if key not in self.awakeables])
        found = map(self.awakeable, ids)
        return [row for row in found if row is not None and row.state == "pending"]

    def write(self) -> tuple[Wake, ...]:
        """Make the changes; return the wake-ups.

        Raises:
            NotLoaded: An invocation to wake is not loaded; nothing is changed.
        """
        changes, woken = self._changes, self.woken
        if woken:
            changes.require_waiting({row.invocation_id for row, _ in woken} - self.invocations.keys())
        for before, after in self.invocations.values():
            changes.put_invocation(before, after)
        for known, row in self.awakeables.values():
            changes.put_awakeable(known, row)
        if self._keys:
            for (scope, key), (fingerprint, invocation_id) in self._keys.items():
                changes.add_key(Idempotency(scope=scope, key=key, fingerprint=fingerprint), invocation_id)
        if self.objects:
            for object_key, (held, queue) in self.objects.items():
                changes.put_object(held, object_key, queue)
            for object_key, invocation_id in self._queued:
                changes.queued.setdefault(object_key, []).append(invocation_id)
        if self.chunks:
            changes.chunks += [(key, 1, chunk, self.now_ms) for key, chunk in self.chunks]
        if not woken:
            return ()
        return tuple(changes.wake(row, outcome, self.now_ms) for row, outcome in woken)

    def stopped_rows(self) -> tuple[Invocation, ...]:
        """The invocations that are stopped, as they are after `write`."""
        rows = map(self._changes.rows.invocations.get, dict.fromkeys(self.stopped))
        return tuple(row for row in rows if row is not None)


def _invocation_of(row: AwakeableRow | None) -> str | None:
    return None if row is None else row.invocation_id


def requeued(row: EffectRow, *, position: int, acts_json: bytes | None) -> EffectRow:
    """A failed effect, unsent again and unclaimed."""
    return replace(
        row,
        state="unsent",
        claimed_by=UNCLAIMED,
        reason_utf8=None,
        acts_json=acts_json,
        position=position,
    )


def refused(row: EffectRow, reason: str) -> EffectRow:
    """An effect that Kafka refused permanently, marked as failed."""
    return replace(row, state="failed", reason_utf8=text_bytes(reason))
