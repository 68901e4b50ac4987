"""How a fact is written down: immutable, named fields, one tag per kind.

`msgspec` structs rather than dataclasses: the journal and the wire are made of them, and they
encode ten times faster (docs/adr/0003-msgspec-for-records.md). Integers that count time end in
`_ms` and are milliseconds since 1970 (instants) or milliseconds (durations).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import dataclass_transform

import msgspec


def instant(at_ms: int) -> datetime:
    """The instant of so many milliseconds since 1970, exactly: a float of seconds would round."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000)


def rfc3339(at_ms: int) -> str:
    """The same instant as text, to the millisecond: 2026-11-21T12:00:00.000Z."""
    return instant(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _RecordMeta(msgspec.StructMeta):
    """Tells type checkers what `Record` hands down: frozen, keyword-only."""


class Record(msgspec.Struct, metaclass=_RecordMeta, frozen=True, kw_only=True, omit_defaults=True):
    """A fact or an order: never changed, compared by value."""
