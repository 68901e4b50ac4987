"""Seals what a store writes about users' data, and opens what it reads: a codec at the border of the rows.

Decisions, caches and readers see clear values only. Sealed is whatever a user's code, a worker or a caller
has written. IDs, names, keys of objects and of requests, topics, instants and numbers stay clear, since the
store searches by them. A value is bound to its row and column: one that is moved elsewhere does not open.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.commands import UNREAD
from awakeables.core.deadletters import DeadLetter
from awakeables.core.invocations import Invocation
from awakeables.core.objects import ObjectKey, StateEntry
from awakeables.core.outcomes import Outcome, decode_outcome
from awakeables.core.records import Row, text_from
from awakeables.core.rows import Chunk, EffectRow
from awakeables.core.sealed import MAGIC, Unopened, marked_clear, rejection_of, unopened, unwrapped, wrapped
from awakeables.errors import KeyMissing, StoreUnavailable, ValueSealed
from awakeables.ports import PayloadCodec
from awakeables.store.rows import Columns, dead_letter_from

V = TypeVar("V", bytes, str)

TEXT: Final = "sealed:"
"""Before the base64 of a sealed value in a column of text. Fingerprints are hexadecimal."""

PROBE: Final = b"awakeables"
"""What is kept sealed by each key that was ever used, to find out whether it opens again."""


class SealedTable(NamedTuple):
    """A table with sealed columns.

    Attributes:
        key: The columns of its primary key.
        columns: The sealed columns.
    """

    key: tuple[str, ...]
    columns: tuple[str, ...]


SEALED_TABLES: Final[Mapping[str, SealedTable]] = {
    "invocations": SealedTable(("id",), ("failure", "result")),
    "journal": SealedTable(("invocation_id", "version"), ("chunk",)),
    "awakeables": SealedTable(("id",), ("outcome", "book", "beat")),
    "outbox": SealedTable(("event_id",), ("reason", "facts", "headers", "key", "value")),
    "dead_letters": SealedTable(("id",), ("reason", "headers", "key", "value")),
    "state": SealedTable(("service", "key", "name"), ("value",)),
    "idempotency": SealedTable(("scope", "key"), ("fingerprint",)),
}


class Sealed(NamedTuple):
    """Where the sealed columns are in the values of a statement or row.

    Attributes:
        table: The table.
        key: The places of its primary key.
        columns: The places of sealed columns, by name.
    """

    table: str
    key: tuple[int, ...]
    columns: Mapping[str, int]


def _whole(table: str, row: type[Row], **fields: str) -> Sealed:
    """The places in a whole row, whose first field is the key, by the fields of the columns."""
    names = row.__struct_fields__
    return Sealed(table, (0,), {column: names.index(field) for column, field in fields.items()})


INVOCATION: Final = _whole("invocations", Invocation, failure="failure_json", result="result_json")
AWAKEABLE: Final = _whole(
    "awakeables", AwakeableRow, outcome="outcome_json", book="verdicts_json", beat="heartbeat_json"
)
EFFECT: Final = _whole(
    "outbox",
    EffectRow,
    reason="reason_utf8",
    facts="facts_json",
    headers="headers_json",
    key="key",
    value="value",
)
DEAD_LETTER: Final = Sealed("dead_letters", (0,), {"reason": 7, "headers": 10, "key": 11, "value": 12})
CHUNK: Final = Sealed("journal", (0, 1), {"chunk": 2})
STATE: Final = Sealed("state", (0, 1, 2), {"value": 3})
REQUEST: Final = Sealed("idempotency", (0, 1), {"fingerprint": 2})


class Sealing:
    """Seals and opens with one codec; without one, values pass, and sealed ones can't be opened.

    Attributes:
        codec: The codec.
        key_id: The key that it seals with; None: it only opens.
    """

    def __init__(self, codec: PayloadCodec | None = None) -> None:
        self.codec = codec
        self.key_id = None if codec is None else codec.key_id
        self._is_strict = not getattr(codec, "accepts_clear", True)

    # Reading. What can't be opened is in the row as `Unopened`.

    def invocation(self, columns: Iterable[Any]) -> Invocation:
        return Invocation(*self._opened(INVOCATION, columns))

    def awakeable(self, columns: Iterable[Any]) -> AwakeableRow:
        return AwakeableRow(*self._opened(AWAKEABLE, columns))

    def effect(self, columns: Iterable[Any]) -> EffectRow:
        return EffectRow(*self._opened(EFFECT, columns))

    def dead_letter(self, columns: Iterable[Any]) -> DeadLetter:
        return dead_letter_from(self._opened(DEAD_LETTER, columns))

    def chunk(self, columns: Iterable[Any]) -> Chunk:
        return Chunk(*self._opened(CHUNK, columns))

    def value(self, table: str, column: str, key: Sequence[Any], stored: bytes) -> bytes:
        """A single value.

        Raises:
            ValueSealed: It can't be opened.
        """
        return readable(self._open(stored, _address(table, column, key)))

    def opened(self, table: str, column: str, key: Sequence[Any], stored: bytes) -> bytes | None:
        """A single value; None: it can't be opened."""
        opened = self._open(stored, _address(table, column, key))
        return None if isinstance(opened, Unopened) else opened

    def result(self, invocation_id: str, stored: bytes) -> Outcome:
        """How an invocation ended; a rejection that says so if that can't be read."""
        opened = self._open(stored, _address("invocations", "result", [invocation_id]))
        return rejection_of(opened) if isinstance(opened, Unopened) else decode_outcome(opened)

    def fingerprint(self, scope: bytes, key: bytes, stored: str) -> str:
        """The fingerprint of a request; `UNREAD` if it can't be opened."""
        opened = self._open(from_text(stored), _address("idempotency", "fingerprint", (scope, key)))
        return UNREAD if isinstance(opened, Unopened) else opened.decode()

    def state_entry(self, object_key: ObjectKey, name: bytes, value: bytes, at_ms: int) -> StateEntry:
        """A name of a key's state."""
        opened = self._open(value, _address("state", "value", (*object_key, name)))
        return StateEntry(name=text_from(name), value=opened, updated_ms=at_ms)

    # Writing.

    def sealed(self, places: Sealed, rows: Iterable[Columns]) -> list[Columns]:
        """The rows, or values for a statement, as they are to be stored."""
        return [tuple(self._row(places, row)) for row in rows]

    def _row(self, places: Sealed, row: Columns) -> list[Any]:
        columns: list[Any] = list(row)
        for column, place in places.columns.items():
            content = columns[place]
            if content is not None:
                key = [columns[each] for each in places.key]
                columns[place] = self.stored(places.table, column, key, content)
        return columns

    def stored(self, table: str, column: str, key: Sequence[Any], content: V) -> V:
        """A single value as it is to be stored; in a column of text, bytes are written as base64."""
        if isinstance(content, str):
            sealed = self._stored(table, column, key, content.encode())
            return content if sealed == content.encode() else as_text(sealed)
        return self._stored(table, column, key, content)

    def _stored(self, table: str, column: str, key: Sequence[Any], content: bytes) -> bytes:
        if isinstance(content, Unopened):
            return bytes(content)
        if self.codec is None or self.key_id is None:
            return marked_clear(content) if content.startswith(MAGIC) else content
        return wrapped(self.key_id, self.codec.seal(content, bound_to=_address(table, column, key)))

    # Keys.

    def probe(self) -> tuple[str, bytes] | None:
        """The ID of the key that seals now, and what proves later that a key of this ID is the same."""
        key_id = self.key_id
        if self.codec is None or key_id is None:
            return None
        return key_id, self.codec.seal(PROBE, bound_to=_address("seals", "probe", [key_id]))

    def check(self, probes: Iterable[tuple[str, bytes]]) -> list[str]:
        """The IDs of the keys of these probes that are declared lost; all others open again.

        Raises:
            KeyMissing: There is no codec, or one of the keys is missing or another one.
        """
        lost: list[str] = []
        for key_id, probe in probes:
            if self.codec is None:
                raise KeyMissing(
                    f"the store has values that are sealed with the key {key_id!r}, and the app has no "
                    "codec: give it the codec that it had, App(..., codec=...)"
                )
            address = _address("seals", "probe", [key_id])
            try:
                if self.codec.open(probe, key_id=key_id, bound_to=address) == PROBE:
                    continue
            except KeyMissing as error:
                if key_id in getattr(self.codec, "lost", ()):
                    lost.append(key_id)
                    continue
                raise KeyMissing(
                    f"the store has values that are sealed with the key {key_id!r}: {error}. Add it, or say "
                    "that it is lost: KeyRing(..., lost=[...])"
                ) from error
            except Exception as error:
                raise KeyMissing(
                    f"the key {key_id!r} is not the one with which values in the store are sealed: {error}"
                ) from error
            raise KeyMissing(f"the key {key_id!r} opens what it has sealed as something else")
        return lost

    def _opened(self, places: Sealed, row: Iterable[Any]) -> list[Any]:
        columns = list(row)
        for column, place in places.columns.items():
            content = columns[place]
            if isinstance(content, bytes) and (content.startswith(MAGIC) or self._is_strict):
                key = [columns[each] for each in places.key]
                columns[place] = self._open(content, _address(places.table, column, key))
        return columns

    def _open(self, stored: bytes, address: str) -> bytes:
        key_id, content = unwrapped(stored) if stored.startswith(MAGIC) else ("", stored)
        if not key_id:
            return unopened(stored, ValueSealed(f"{address} is not sealed")) if self._is_strict else content
        if self.codec is None:
            return unopened(
                stored, KeyMissing(f"it is sealed with the key {key_id!r}, and the app has no codec")
            )
        try:
            return self.codec.open(content, key_id=key_id, bound_to=address)
        except StoreUnavailable:
            raise
        except ValueSealed as error:
            return unopened(stored, error)
        except Exception as error:
            problem = f"{address} is not what was sealed there with the key {key_id!r}: {error!r}"
            return unopened(stored, ValueSealed(problem))


def as_text(stored: bytes) -> str:
    """A sealed value in a column of text."""
    return TEXT + b64encode(stored).decode()


def from_text(stored: str) -> bytes:
    """What a column of text has, sealed or not."""
    return b64decode(stored.removeprefix(TEXT)) if stored.startswith(TEXT) else stored.encode()


def readable(value: bytes) -> bytes:
    """The value.

    Raises:
        ValueSealed: It could not be opened.
    """
    if isinstance(value, Unopened):
        raise value.error
    return value


def _address(table: str, column: str, key: Sequence[Any]) -> str:
    """What a value is bound to: `awakeables.outcome:prom_…`."""
    return ":".join(
        (f"{table}.{column}", *(each.hex() if isinstance(each, bytes) else str(each) for each in key))
    )
