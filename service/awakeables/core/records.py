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
