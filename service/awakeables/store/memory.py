"""The store in memory: the reference meaning of the ports, for tests and `awakeables.testing`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from awakeables.core.acts import Acts
from awakeables.core.awakeables import Awakeable, State
from awakeables.core.brief import brief_awakeable, brief_effect, brief_invocation, brief_letter
from awakeables.core.ids import EFFECT_KINDS, by_issue, first_id
from awakeables.core.invocations import STATUSES, Invocation, Status, due_since_ms, is_suspect
from awakeables.core.journal import Entry, awakeables_asked, decode_chunks
from awakeables.core.orders import (
    Answer,
    DeadLetter,
    Effect,
    EffectState,
    Ended,
    Idempotency,
    Member,
    Position,
    QueuedEffect,
)
from awakeables.core.outcomes import Outcome
from awakeables.ports import Clock, Expectation, Page
from awakeables.store.apply import apply
from awakeables.store.batches import beginning_of, first_of

K = TypeVar("K")
V = TypeVar("V")


class MemoryTables:
    """Dicts, and a list of what undoes the transaction that is under way."""

    def __init__(self) -> None:
        self.invocations: dict[str, Invocation] = {}
        self.journals: dict[str, dict[int, bytes]] = {}
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.awakeables: dict[str, Awakeable] = {}
        self.schemas: dict[str, bytes] = {}
        self.effects: dict[str, Effect] = {}
        self.claims: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.effect_acts: dict[str, Acts] = {}
        self.letters: dict[str, DeadLetter] = {}
        self.sources: dict[str, str] = {}
        self.positions: dict[tuple[str, int], Position] = {}
        self._undo: list[Callable[[], object]] = []

    def begin(self) -> None:
        self._undo.clear()

    @property
    def changed(self) -> bool:
        """Has the transaction changed anything?"""
        return bool(self._undo)

    def roll_back(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _set(self, table: dict[K, V], key: K, value: V) -> None:
        if key in table:
            old = table[key]
            self._undo.append(lambda: table.__setitem__(key, old))
        else:
            self._undo.append(lambda: table.pop(key))
        table[key] = value

    def _delete(self, table: dict[K, V], key: K) -> None:
        if key in table:
            old = table.pop(key)
            self._undo.append(lambda: table.__setitem__(key, old))

    def invocation(self, invocation_id: str) -> Invocation | None:
        return self.invocations.get(invocation_id)

    def put_invocation(self, row: Invocation) -> None:
        self._set(self.invocations, row.id, row)

    def due(self, now_ms: int, limit: int, *, suspects: bool) -> list[Invocation]:
        rows = [
            (due_since_ms(row.due_ms), row.id)
            for row in self.invocations.values()
            if row.due_ms is not None and row.due_ms <= now_ms and is_suspect(row) == suspects
        ]
        return [self.invocations[key] for _, key in sorted(rows)[:limit]]

    def running(self) -> list[Invocation]:
        return [row for row in self.invocations.values() if row.owner is not None]

    def add_chunk(self, invocation_id: str, version: int, chunk: bytes, at_ms: int) -> None:
        if invocation_id not in self.journals:
            self._set(self.journals, invocation_id, {})
        self._set(self.journals[invocation_id], version, chunk)

    def chunks(self, invocation_id: str) -> list[bytes]:
        return [chunk for _, chunk in sorted(self.journals.get(invocation_id, {}).items())]

    def forget(self, invocation_ids: Sequence[str], awakeable_ids: Sequence[str]) -> None:
        for key in invocation_ids:
            self._delete(self.invocations, key)
            self._delete(self.journals, key)
        for pair in [pair for pair, (_, stands_for) in self.keys.items() if stands_for in invocation_ids]:
            self._delete(self.keys, pair)
        for key in awakeable_ids:
            self._delete(self.awakeables, key)

    def idempotent(self, scope: str, key: str) -> tuple[str, str] | None:
        return self.keys.get((scope, key))

    def add_idempotent(self, idempotency: Idempotency, invocation_id: str) -> None:
        self._set(self.keys, (idempotency.scope, idempotency.key), (idempotency.fingerprint, invocation_id))

    def awakeable(self, awakeable_id: str) -> Awakeable | None:
        return self.awakeables.get(awakeable_id)

    def put_awakeable(self, row: Awakeable) -> None:
        self._set(self.awakeables, row.id, row)

    def overdue(self, horizon_ms: int, limit: int) -> list[Awakeable]:
        rows = sorted(
            (row.deadline_ms, row.id)
            for row in self.awakeables.values()
            if row.state == "pending" and row.deadline_ms is not None and row.deadline_ms <= horizon_ms
        )
        return [self.awakeables[key] for _, key in rows[:limit]]

    def add_schema(self, schema_hash: str, schema: bytes) -> None:
        if schema_hash not in self.schemas:
            self._set(self.schemas, schema_hash, schema)

    def add_effect(self, effect: Effect, owner: str) -> None:
        if effect.event_id not in self.effects:
            self._set(self.effects, effect.event_id, effect)
            self._set(self.claims, effect.event_id, owner)

    def unclaimed(self, owner: str, limit: int) -> list[Effect]:
        others = [key for key, held_by in self.claims.items() if held_by != owner and key not in self.failed]
        streams = {self.effects[key].stream for key in sorted(others)[:limit]}
        claimed = sorted(key for key in others if self.effects[key].stream in streams)
        for key in claimed:
            self._set(self.claims, key, owner)
        return [self.effects[key] for key in claimed]

    def effect(self, event_id: str) -> Effect | None:
        return None if event_id in self.failed else self.effects.get(event_id)

    def drop_effect(self, event_id: str) -> None:
        self._delete(self.effects, event_id)
        self._delete(self.claims, event_id)
        self._delete(self.failed, event_id)
        self._delete(self.effect_acts, event_id)

    def fail_effect(self, event_id: str, reason: str) -> None:
        self._set(self.failed, event_id, reason)

    def queued_effect(self, event_id: str) -> QueuedEffect | None:
        effect = self.effects.get(event_id)
        if effect is None:
            return None
        reason = self.failed.get(event_id)
        acts = self.effect_acts.get(event_id, ())
        state: EffectState = "unsent" if reason is None else "failed"
        return QueuedEffect(effect=effect, state=state, reason=reason, acts=acts)

    def requeue_effect(self, event_id: str, owner: str, acts: Acts) -> None:
        self._delete(self.failed, event_id)
        self._set(self.effect_acts, event_id, acts)
        self._set(self.claims, event_id, owner)

    def has_dead_letter(self, source: str) -> bool:
        return source in self.sources

    def add_dead_letter(self, letter: DeadLetter) -> None:
        self._set(self.letters, letter.id, letter)
        self._set(self.sources, letter.source, letter.id)

    def dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        return self.letters.get(dead_letter_id)

    def put_dead_letter(self, letter: DeadLetter) -> None:
        self._set(self.letters, letter.id, letter)

    def forget_letters(self, before_ms: int, limit: int, code: str | None) -> int:
        end = first_id("dlq", before_ms)
        found = (key for key, row in self.letters.items() if key < end and code in (None, row.code))
        letters = sorted(found)[:limit]
        for key in letters:
            self._delete(self.sources, self.letters[key].source)
            self._delete(self.letters, key)
        return len(letters)

    def forget_refused(self, before_ms: int, limit: int) -> int:
        count = 0
        for kind in EFFECT_KINDS:
            first, end = f"{kind}_", first_id(kind, before_ms)
            refused = sorted(key for key in self.failed if first < key < end)[:limit]
            for key in refused:
                self.drop_effect(key)
            count += len(refused)
        return count

    def position(self, topic: str, partition: int) -> Position | None:
        return self.positions.get((topic, partition))

    def put_position(self, topic: str, position: Position, owner: str | None = None) -> None:
        self._set(self.positions, (topic, position.partition), position)

    def probe(self) -> None:
        """There is nothing that could fail."""


class MemoryStore:
    """Keeps everything in this process; nothing outlives it."""

    def __init__(self, *, clock: Clock, retention_ms: int) -> None:
        self._clock = clock
        self._retention_ms = retention_ms
        self.tables = MemoryTables()

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def commit(self, members: Sequence[Member]) -> list[Answer]:
        self.tables.begin()
        try:
            return apply(members, self.tables, now_ms=self._clock.now_ms(), retention_ms=self._retention_ms)
        except BaseException:
            self.tables.roll_back()
            raise

    async def history(self, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
        tables = self.tables
        return {key: decode_chunks(tables.chunks(key)) for key in invocation_ids if key in tables.journals}

    async def outcomes(self, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
        rows = (self.tables.awakeables.get(key) for key in awakeable_ids)
        return {row.id: row.outcome for row in rows if row is not None and row.outcome is not None}

    async def held_by(self, owner: str) -> list[str]:
        return [row.id for row in self.tables.running() if row.owner == owner]

    async def expectations(self, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
        rows = (self.tables.awakeables.get(key) for key in awakeable_ids)
        return {
            row.id: Expectation(
                invocation_id=row.invocation_id,
                codec=row.codec,
                type_name=row.type_name,
                schema_hash=row.schema_hash,
                schema=self.tables.schemas.get(row.schema_hash or ""),
            )
            for row in rows
            if row is not None
        }

    async def effects(self, state: EffectState, limit: int) -> list[Effect]:
        wanted = state == "failed"
        failed = self.tables.failed
        return [e for key, e in sorted(self.tables.effects.items()) if (key in failed) == wanted][:limit]

    async def ended(self, before_ms: int, limit: int) -> list[Ended]:
        tables = self.tables
        rows = [row for row in tables.invocations.values() if row.status == "completed"]
        ended = sorted((row.updated_ms, row.id, row.version) for row in rows if row.updated_ms <= before_ms)
        keys = first_of(((key, chunks) for _, key, chunks in ended), limit)
        return [Ended(id=key, awakeables=tuple(awakeables_asked(tables.chunks(key)))) for key in keys]

    async def positions(self, topic: str) -> list[Position]:
        return [position for (name, _), position in sorted(self.tables.positions.items()) if name == topic]

    async def invocation(self, invocation_id: str) -> Invocation | None:
        return self.tables.invocations.get(invocation_id)

    async def invocations(
        self, page: Page, *, status: Status | None = None, service: str | None = None
    ) -> list[Invocation]:
        rows = self.tables.invocations.values()
        found = _newest(
            {row.id: row for row in rows if status in (None, row.status) and service in (None, row.service)},
            page,
        )
        return [brief_invocation(row) for row in found]

    async def keyed(self, scopes: Sequence[str], key: str) -> list[Invocation]:
        found = {self.tables.keys[scope, key][1] for scope in scopes if (scope, key) in self.tables.keys}
        return [brief_invocation(self.tables.invocations[key]) for key in sorted(found, reverse=True)]

    async def idempotency_key(self, invocation_id: str) -> str | None:
        keys = self.tables.keys.items()
        return next((key for (_, key), (_, stands_for) in keys if stands_for == invocation_id), None)

    async def journal(self, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
        chunks, whole = beginning_of(self.tables.chunks(invocation_id), most_bytes)
        return decode_chunks(chunks), whole

    async def awakeable(self, awakeable_id: str) -> Awakeable | None:
        return self.tables.awakeables.get(awakeable_id)

    async def awakeables(self, page: Page, *, state: State | None = None) -> list[Awakeable]:
        rows = self.tables.awakeables.values()
        found = _newest({row.id: row for row in rows if state in (None, row.state)}, page)
        return [brief_awakeable(row) for row in found]

    async def dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        return self.tables.letters.get(dead_letter_id)

    async def dead_letters(self, page: Page) -> list[DeadLetter]:
        return [brief_letter(row) for row in _newest(self.tables.letters, page)]

    async def queued_effect(self, event_id: str) -> QueuedEffect | None:
        return self.tables.queued_effect(event_id)

    async def queued_effects(self, page: Page, *, state: EffectState) -> list[QueuedEffect]:
        rows = (self.tables.queued_effect(key) for key in self.tables.effects)
        found = _newest({row.id: row for row in rows if row is not None and row.state == state}, page)
        return [brief_effect(row) for row in found]

    async def counts(self) -> Mapping[str, int]:
        tables = self.tables
        pending = [row.created_ms for row in tables.awakeables.values() if row.state == "pending"]
        unsent = [row.created_ms for key, row in tables.effects.items() if key not in tables.failed]
        statuses = Counter(row.status for row in tables.invocations.values() if row.status != "completed")
        oldest = {"awakeables_oldest_ms": pending, "effects_oldest_ms": unsent}
        return {
            "awakeables_pending": len(pending),
            "invocations_open": statuses.total(),
            **{f"invocations_{status}": statuses[status] for status in STATUSES if status != "completed"},
            **{name: min(made) for name, made in oldest.items() if made},
            "effects_unsent": len(unsent),
            "effects_failed": len(tables.failed),
            "dead_letters": len(tables.letters),
        }


def _newest(rows: Mapping[str, V], page: Page) -> list[V]:
    before = None if page.before is None else by_issue(page.before)
    keys = sorted((k for k in rows if before is None or by_issue(k) < before), key=by_issue, reverse=True)
    return [rows[key] for key in keys[: page.limit]]
