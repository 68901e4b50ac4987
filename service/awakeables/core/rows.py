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
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Outcome
from awakeables.core.records import Row, text_bytes, text_from
from awakeables.core.replies import Position, Wake

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TableName: TypeAlias = Literal[
    "invocations", "awakeables", "effects", "dead_letters", "sources", "keys", "positions"
]

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
        facts = self.facts_json
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

    @property
    def reason(self) -> str | None:
        return None if self.reason_utf8 is None else text_from(self.reason_utf8)

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
    """How far a partition was read and who reads it; `again_before` and `topic_id` as in `Position`."""

    topic: str
    partition: int
    next: int = 0
    epoch: int = 0
    owner: str | None = None
    again_before: int = 0
    topic_id: str | None = None

    @property
    def position(self) -> Position:
        return Position(
            partition=self.partition,
            next=self.next,
            epoch=self.epoch,
            again_before=self.again_before,
            topic_id=self.topic_id,
            owner=self.owner,
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
        positions: By topic and partition.
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
        self.positions: Table[tuple[str, int], PositionRow] = make("positions")


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
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.invocations: dict[str, Invocation | None] = {}
        self.awakeables: dict[str, AwakeableRow | None] = {}
        self.effects: dict[str, EffectRow | None] = {}
        self.dead_letters: dict[str, DeadLetter | None] = {}
        self.positions: dict[tuple[str, int], PositionRow | None] = {}
        self.keys: dict[tuple[str, str], tuple[str, str] | None] = {}
        self.chunks: list[tuple[str, int, bytes, int]] = []
        self.schemas: dict[str, bytes] = {}
        self.published: list[str] = []
        self.purged: list[Ended] = []
        self.deleted_dead_letters: list[str] = []
        self.deleted_effects: list[str] = []
        self.probes = 0

    def put_invocation(self, before: Invocation | None, row: Invocation) -> None:
        self.invocations.setdefault(row.id, before)
        self.rows.invocations[row.id] = row

    def put_awakeable(self, before: AwakeableRow | None, row: AwakeableRow) -> None:
        self.awakeables.setdefault(row.id, before)
        self.rows.awakeables[row.id] = row

    def put_effect(self, before: EffectRow | None, row: EffectRow) -> None:
        self.effects.setdefault(row.event_id, before)
        self.rows.effects[row.event_id] = row

    def put_position(self, before: PositionRow | None, row: PositionRow) -> None:
        key = (row.topic, row.partition)
        self.positions.setdefault(key, before)
        self.rows.positions[key] = row

    def put_dead_letter(self, before: DeadLetter | None, letter: DeadLetter) -> None:
        self.dead_letters.setdefault(letter.id, before)
        self.rows.dead_letters[letter.id] = letter
        self.rows.sources[letter.source] = letter.id

    def add_key(self, key: Idempotency, invocation_id: str) -> None:
        self.keys.setdefault((key.scope, key.key), None)
        self.rows.keys[key.scope, key.key] = (key.fingerprint, invocation_id)

    def delete_effect(self, before: EffectRow) -> None:
        self.effects.setdefault(before.event_id, before)
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
