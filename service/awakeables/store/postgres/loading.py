"""Loads rows for decisions: by key, all tables in one statement, with the database's clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.decide.needs import Keys
from awakeables.core.invocations import Invocation
from awakeables.core.objects import ObjectRow
from awakeables.core.pauses import PauseRow
from awakeables.core.records import text_bytes, text_from
from awakeables.core.rows import PositionRow, Rows, TableName
from awakeables.core.schedules import ScheduleRow
from awakeables.store.postgres.connection import Connection
from awakeables.store.postgres.queries import QUERIES, renumbered
from awakeables.store.postgres.texts import storable
from awakeables.store.rows import Columns
from awakeables.store.sealing import Sealing

Found: TypeAlias = tuple[Hashable, Any]
"""A row's key, and the row."""

LOCKED: tuple[TableName, ...] = (
    "positions",
    "schedules",
    "pauses",
    "objects",
    "awakeables",
    "invocations",
    "effects",
    "dead_letters",
)
"""The tables whose rows are changed, in the order in which every commit locks them."""


class Loaded:
    """Rows as they were at one instant.

    Attributes:
        tables: By table and key; None: the row does not exist.
        revs: The revisions of invocations and awakeables, by ID.
        now_ms: The instant to decide at.
        read_ms: When they were read, by the database's clock.
        sealing: Opens what is sealed in them.
    """

    def __init__(self, now_ms: int, read_ms: int, sealing: Sealing) -> None:
        self.tables: defaultdict[TableName, dict[Hashable, Any]] = defaultdict(dict)
        self.revs: dict[str, int] = {}
        self.now_ms = now_ms
        self.read_ms = read_ms
        self.sealing = sealing

    def rows(self, retention_ms: int) -> Rows:
        """The rows to decide on; decisions change this copy."""
        rows = Rows(retention_ms)
        for table, found in self.tables.items():
            getattr(rows, table).update(found)
        return rows

    def invocation(self, columns: Columns) -> Invocation:
        """A row that was read with its revision, the last column."""
        *values, self.revs[columns[0]] = columns
        return self.sealing.invocation(values)

    def awakeable(self, columns: Columns) -> AwakeableRow:
        """A row that was read with its revision, the last column."""
        *values, self.revs[columns[0]] = columns
        return self.sealing.awakeable(values)


async def load(connection: Connection, keys: Keys, clock_ms: Callable[[], int] | None) -> Loaded:
    """Load the rows with these keys, in one statement.

    Args:
        connection: Where they are read.
        keys: By table.
        clock_ms: The clock to decide by; None: the database's.
    """
    wanted = {table: sorted(some) for table, some in sorted(keys.items()) if some}  # type: ignore[type-var]
    parameters = [array for table, some in wanted.items() for array in _arrays(table, some)]
    found = await connection.fetch(_statement(tuple(wanted)), *parameters)
    read_ms = next(row[0] for table, row in found if table == "clock")
    loaded = Loaded(read_ms if clock_ms is None else clock_ms(), read_ms, connection.sealing)
    for table, some in wanted.items():
        loaded.tables[table].update(dict.fromkeys(some))
    for table, columns in found:
        if table != "clock":
            key, row = _MADE[table](loaded, columns)
            loaded.tables[table][key] = row
    return loaded


async def lock(connection: Connection, keys: Keys) -> None:
    """Lock the rows with these keys until the transaction ends, and the keys of queues that have no row."""
    for table in LOCKED:
        some = sorted(keys.get(table, ()))  # type: ignore[type-var]
        if some and table == "objects":
            await hold_places(connection, some)
        if some:
            await connection.fetch(QUERIES[f"lock_{table}"], *_arrays(table, some))


async def hold_places(connection: Connection, object_keys: Sequence[Any]) -> None:
    """Keep others from making queues of these keys, which are sorted, until the transaction ends."""
    for query in ("hold_place", "free_place"):
        await connection.execute(QUERIES[query], *_arrays("objects", object_keys))


@lru_cache(maxsize=256)
def _statement(tables: tuple[TableName, ...]) -> str:
    parts, count = [QUERIES["load_clock"]], 0
    for table in tables:
        parts.append(renumbered(QUERIES[f"load_{table}"], count))
        count += len(_arrays(table, ()))
    return "\nUNION ALL\n".join(parts)


def _arrays(table: TableName, keys: Collection[Any]) -> list[list[Any]]:
    """The keys as the parameters of their table's statement."""
    if table == "keys":
        return [[text_bytes(scope) for scope, _ in keys], [text_bytes(key) for _, key in keys]]
    if table == "positions":
        return [[each[place] for each in keys] for place in range(3)]
    if table in ("objects", "states"):
        return [[service for service, _ in keys], [key for _, key in keys]]
    if table == "queue":
        return [
            [service for (service, _), _ in keys],
            [key for (_, key), _ in keys],
            [ticket for _, ticket in keys],
        ]
    if table == "waiting":
        return [[text_bytes(key) for key in keys]]
    return [[storable(key) for key in keys]]


def _invocation(loaded: Loaded, columns: Columns) -> Found:
    return columns[0], loaded.invocation(columns)


def _awakeable(loaded: Loaded, columns: Columns) -> Found:
    return columns[0], loaded.awakeable(columns)


def _key(loaded: Loaded, columns: Columns) -> Found:
    scope, key, fingerprint, invocation_id = columns
    known = (loaded.sealing.fingerprint(scope, key, fingerprint), invocation_id)
    return (text_from(scope), text_from(key)), known


_MADE: dict[TableName, Callable[[Loaded, Columns], Found]] = {
    "invocations": _invocation,
    "awakeables": _awakeable,
    "effects": lambda loaded, columns: (columns[0], loaded.sealing.effect(columns)),
    "dead_letters": lambda loaded, columns: (columns[0], loaded.sealing.dead_letter(columns)),
    "sources": lambda _loaded, columns: columns,
    "keys": _key,
    "positions": lambda _loaded, columns: (columns[:3], PositionRow(*columns)),
    "schedules": lambda _loaded, columns: (columns[0], ScheduleRow(*columns)),
    "pauses": lambda _loaded, columns: (columns[0], PauseRow(*columns)),
    "waiting": lambda _loaded, columns: columns,
    "pending": lambda _loaded, columns: columns,
    "objects": lambda _loaded, columns: (columns[:2], ObjectRow(*columns)),
    "queue": lambda _loaded, columns: ((columns[:2], columns[2]), columns[3]),
    "states": lambda _loaded, columns: (columns[:2], [text_from(name) for name in columns[2]]),
}


def merge(keys: Keys, more: Keys) -> bool:
    """Add keys to others; return whether any of them is new."""
    grown = False
    for table, some in more.items():
        grown = grown or not some <= keys[table]
        keys[table] |= some
    return grown


def keys_of(table: TableName, some: Iterable[Hashable]) -> Keys:
    """Keys of one table."""
    return defaultdict(set, {table: set(some)})
