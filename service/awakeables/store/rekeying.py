"""Seals stored values again: with the current key, or not at all. What both databases have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from awakeables.core.sealed import is_sealed, unwrapped
from awakeables.ports import PayloadCodec
from awakeables.store.sealing import SEALED_TABLES, Sealing, as_text, from_text

PAGE_ROWS: Final = 200
PASSES: Final = 5
"""Instances that still seal with another key may add values during each pass but the last."""


class Rekeyed(NamedTuple):
    """What `rekey` has done.

    Attributes:
        values: How many values were written again.
        unread: How many could not be opened, and were left.
        dropped: The IDs of keys by which no value is sealed any more.
        kept: The IDs of the others, except for the current one.
    """

    values: int
    unread: int
    dropped: tuple[str, ...]
    kept: tuple[str, ...]


class Rekeying:
    """Decides what becomes of each value, and counts.

    Attributes:
        values: How many values were written again.
        unread: How many could not be opened in the last pass.
        seen: The IDs of the keys by which values were sealed when the last pass came to them.
    """

    def __init__(self, codec: PayloadCodec, *, clear: bool) -> None:
        """Seal with the codec's current key, or, if `clear`, store as it is."""
        self._from = Sealing(codec)
        self._to = Sealing(None) if clear else self._from
        self._key_id = None if clear else codec.key_id
        self.values = self.unread = 0
        self.seen: set[str] = set()

    def begin_pass(self) -> None:
        """Look at everything once more."""
        self.unread = 0
        self.seen = set()

    def again(self, table: str, row: Sequence[Any]) -> list[bytes | str | None] | None:
        """The sealed columns of a row as they are to be stored; None: as they are.

        Args:
            table: The table.
            row: The primary key, then the sealed columns.
        """
        key_columns, columns = SEALED_TABLES[table]
        key, stored = row[: len(key_columns)], row[len(key_columns) :]
        new: list[bytes | str | None] = []
        for column, value in zip(columns, stored, strict=True):
            if isinstance(value, str):
                known = from_text(value)
                after = self._value(table, column, key, known)
                new.append(
                    value if after is known else as_text(after) if is_sealed(after) else after.decode()
                )
            else:
                new.append(value if value is None else self._value(table, column, key, value))
        changed = sum(one is not other for one, other in zip(new, stored, strict=True))
        self.values += changed
        return new if changed else None

    def _value(self, table: str, column: str, key: Sequence[Any], stored: bytes) -> bytes:
        key_id = unwrapped(stored)[0] if is_sealed(stored) else ""
        self.seen.add(key_id)
        if key_id == (self._key_id or ""):
            return stored
        opened = self._from.opened(table, column, key, stored)
        if opened is None:
            self.unread += 1
            return stored
        return self._to.stored(table, column, key, opened)

    def result(self, key_ids: Sequence[str]) -> Rekeyed:
        """What was done, and which of the keys that were used are not any more."""
        used = self.seen - {"", self._key_id}
        return Rekeyed(
            values=self.values,
            unread=self.unread,
            dropped=tuple(key_id for key_id in key_ids if key_id != self._key_id and key_id not in used),
            kept=tuple(sorted(key_id for key_id in used if key_id)),
        )


def page_query(table: str, name: str, *, first: bool, holders: Sequence[str], lock: str = "") -> str:
    """A query for a page of the primary keys and sealed columns of a table, in order.

    Args:
        table: The table.
        name: Its name in the database.
        first: It is the first page; else its parameters are the last key of the one before.
        holders: The parameters' place-holders: those of the key, then that of the number of rows.
        lock: What locks the rows.
    """
    key, columns = SEALED_TABLES[table]
    after = "" if first else f" WHERE ({', '.join(key)}) > ({', '.join(holders[:-1])})"
    named = ", ".join((*key, *columns))
    return f"SELECT {named} FROM {name}{after} ORDER BY {', '.join(key)} LIMIT {holders[-1]}{lock}"  # noqa: S608


def update_query(table: str, name: str, holders: Sequence[str]) -> str:
    """A statement that sets the sealed columns of a row: their values, then its key."""
    key, columns = SEALED_TABLES[table]
    values = ", ".join(f"{column} = {holder}" for column, holder in zip(columns, holders, strict=False))
    row = " AND ".join(
        f"{column} = {holder}" for column, holder in zip(key, holders[len(columns) :], strict=True)
    )
    return f"UPDATE {name} SET {values} WHERE {row}"  # noqa: S608 - names from SEALED_TABLES
