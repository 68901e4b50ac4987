"""How a fact is written down: immutable, named fields, one tag per kind.

`msgspec` structs rather than dataclasses: the journal and the wire are made of them, and they
encode ten times faster (docs/adr/0003-msgspec-for-records.md). Integers that count time end in
`_ms` and are milliseconds since 1970 (instants) or milliseconds (durations).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import dataclass_transform

import msgspec


def instant(at_ms: int) -> datetime:
    """The instant of so many milliseconds since 1970, exactly: a float of seconds would round."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000)


def rfc3339(at_ms: int) -> str:
    """The same instant as text, to the millisecond: 2026-11-21T12:00:00.000Z."""
    seconds, millis = divmod(at_ms, 1000)
    return f"{_to_the_second(seconds)}.{millis:03}Z"


@lru_cache(maxsize=128)
def _to_the_second(seconds: int) -> str:
    """Cached: most instants that are written are of the last few seconds."""
    return instant(seconds * 1000).isoformat(timespec="seconds").removesuffix("+00:00")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _RecordMeta(msgspec.StructMeta):
    """Tells type checkers what `Record` hands down: frozen, keyword-only."""


class Record(msgspec.Struct, metaclass=_RecordMeta, frozen=True, kw_only=True, omit_defaults=True):
    """A fact or an order: never changed, compared by value."""


class Row(msgspec.Struct, gc=False):
    """A row of a table: its fields are the columns, in the order of the table.

    So a row that is read is `Row(*columns)` and an insert is `msgspec.structs.astuple(row)`. What a
    column holds as JSON stays bytes, with a property that decodes it. A row is never changed once
    others may see it: a transition works on a copy.
    """


def text_bytes(text: str) -> bytes:
    """Text from outside: half of a surrogate pair, which UTF-8 refuses, is kept, too."""
    return text.encode("utf-8", "surrogatepass")


def text_from(content: bytes) -> str:
    """Read what `text_bytes` wrote."""
    return content.decode("utf-8", "surrogatepass")
