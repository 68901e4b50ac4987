"""The base classes of immutable records and of rows.

They are `msgspec` structs rather than dataclasses: the journal and the wire are made of them, and they
encode ten times faster (docs/adr/0003-msgspec-for-records.md). Integers whose names end in `_ms` are
milliseconds: since 1970 for an instant, in length for a duration.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import dataclass_transform

import msgspec

_FIRST_MS = round(datetime.min.replace(tzinfo=UTC).timestamp()) * 1000
_LAST_MS = round(datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()) * 1000 + 999


def instant(at_ms: int) -> datetime:
    """Milliseconds since 1970 as a datetime in UTC, exactly: a float of seconds would round.

    Before the year 1 and after 9999 it is the first or the last: producers write what they like.
    """
    at_ms = min(max(at_ms, _FIRST_MS), _LAST_MS)
    return datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000)


def rfc3339(at_ms: int) -> str:
    """Milliseconds since 1970 as text: 2026-11-21T12:00:00.000Z."""
    seconds, millis = divmod(at_ms, 1000)
    return f"{_to_the_second(seconds)}.{millis:03}Z"


@lru_cache(maxsize=128)
def _to_the_second(seconds: int) -> str:
    """Cached: most instants that are written are of the last few seconds."""
    return instant(seconds * 1000).isoformat(timespec="seconds").removesuffix("+00:00")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _RecordMeta(msgspec.StructMeta):
    """Makes type checkers treat subclasses of `Record` as frozen and keyword-only."""


class Record(msgspec.Struct, metaclass=_RecordMeta, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An event, a command or a value: immutable, compared by value."""


class Row(msgspec.Struct):
    """A row of a table: its fields are the columns, in the table's order.

    So reading a row is `Row(*columns)`, and inserting it is `msgspec.structs.astuple(row)`. A JSON column
    stays bytes, with a property that decodes it. A row must not be changed once it is shared: a
    transition works on a copy.
    """


def text_bytes(text: str) -> bytes:
    """Encode text from outside; a lone surrogate, which UTF-8 refuses, is kept, too."""
    return text.encode("utf-8", "surrogatepass")


def text_from(content: bytes) -> str:
    """Decode what `text_bytes` wrote."""
    return content.decode("utf-8", "surrogatepass")
