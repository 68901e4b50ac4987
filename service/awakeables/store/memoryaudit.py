"""Reads all rows of a store in memory, as they are now; for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from copy import copy
from typing import TypeVar

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import EffectState
from awakeables.core.instances import Instance
from awakeables.core.invocations import Invocation
from awakeables.core.objects import ObjectRow
from awakeables.core.rows import Chunk, EffectRow, KeyRow, PositionRow
from awakeables.ports import Clock, Pages, Snapshot
from awakeables.store.memory import MemoryTables

T = TypeVar("T")
R = TypeVar("R")

PAGE_ROWS = 1000


class MemoryAudit:
    """`ports.Audit` of a store in memory."""

    def __init__(self, tables: MemoryTables, *, clock: Clock) -> None:
        """Read these tables, by the store's clock."""
        self._tables = tables
        self._clock = clock

    async def look(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        return await work(MemorySnapshot(self._tables, self._clock.now_ms()))


class MemorySnapshot:
    """`ports.Snapshot` of a copy: rows are never changed in place."""

    def __init__(self, tables: MemoryTables, now_ms: int) -> None:
        self.now_ms = now_ms
        self._invocations = dict(sorted(tables.invocations.items()))
        self._journals = {key: dict(chunks) for key, chunks in sorted(tables.journals.items())}
        self._awakeables = dict(sorted(tables.awakeables.items()))
        self._effects = sorted(tables.effects.values(), key=lambda row: (row.stream, row.event_id))
        self._dead_letters = sorted(tables.dead_letters.values(), key=lambda letter: letter.source)
        self._keys = sorted(tables.keys.items())
        self._positions = [copy(row) for _, row in sorted(tables.positions.items())]
        self._schemas = frozenset(tables.schemas)
        self._objects = [row for _, row in sorted(tables.rows.objects.items()) if row is not None]

    def invocations(self) -> Pages[Invocation]:
        return _pages(self._invocations.values())

    def chunks(self) -> Pages[Chunk]:
        return self.chunks_of(list(self._journals))

    def chunks_of(self, invocation_ids: Sequence[str]) -> Pages[Chunk]:
        journals = ((key, sorted(self._journals.get(key, {}).items())) for key in sorted(invocation_ids))
        return _pages(Chunk(key, version, chunk) for key, chunks in journals for version, chunk in chunks)

    def awakeables(self) -> Pages[AwakeableRow]:
        return _pages(self._awakeables.values())

    def invocations_with(self, invocation_ids: Sequence[str]) -> Pages[Invocation]:
        return _pages(self._invocations[key] for key in invocation_ids if key in self._invocations)

    def awakeables_with(self, awakeable_ids: Sequence[str]) -> Pages[AwakeableRow]:
        return _pages(self._awakeables[key] for key in awakeable_ids if key in self._awakeables)

    def effects(self, state: EffectState) -> Pages[EffectRow]:
        return _pages(row for row in self._effects if row.state == state)

    def dead_letters(self) -> Pages[DeadLetter]:
        return _pages(self._dead_letters)

    def idempotency_keys(self) -> Pages[KeyRow]:
        return _pages(KeyRow(scope, key, known[1]) for (scope, key), known in self._keys)

    def positions(self) -> Pages[PositionRow]:
        return _pages(self._positions)

    def objects(self) -> Pages[ObjectRow]:
        return _pages(self._objects)

    async def versions(self, invocation_ids: Sequence[str]) -> dict[str, int]:
        rows = (self._invocations.get(key) for key in invocation_ids)
        return {row.id: row.version for row in rows if row is not None}

    async def schema_hashes(self) -> frozenset[str]:
        return self._schemas

    async def instances(self) -> list[Instance]:
        return []


async def _pages(rows: Iterable[R]) -> AsyncIterator[Sequence[R]]:
    page: list[R] = []
    for row in rows:
        page.append(row)
        if len(page) == PAGE_ROWS:
            yield page
            page = []
    if page:
        yield page
