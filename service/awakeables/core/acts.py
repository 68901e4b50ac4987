"""Who did what to a row: kept with the row, so that it outlives the log."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from awakeables.core.records import Record

ActKind: TypeAlias = Literal[
    "begin", "resume", "cancel", "kill", "resend", "skip", "pause", "edit", "restart"
]

MAX_ACTS: Final = 10
"""How many acts a row keeps: the first, which may have created it, and the latest."""


class Act(Record):
    """One act of a caller or an operator.

    Attributes:
        by: The name of the token that was used, or where the request came from if none was required.
        into: Of `restart`: the invocation that it began.
    """

    act: ActKind
    by: str
    at_ms: int
    into: str | None = None


Acts: TypeAlias = tuple[Act, ...]


def with_act(acts: Acts, act: ActKind, by: str | None, now_ms: int, *, into: str | None = None) -> Acts:
    """Add an act, if it is known who did it."""
    if by is None:
        return acts
    acts = (*acts, Act(act=act, by=by, at_ms=now_ms, into=into))
    return acts if len(acts) <= MAX_ACTS else (acts[0], *acts[2:])


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Acts).decode


def acts_bytes(acts: Acts) -> bytes | None:
    """Encode acts for their column; None: there are none."""
    return _encode(acts) if acts else None


def acts_from(content: bytes | None) -> Acts:
    """Decode what `acts_bytes` wrote."""
    return _decode(content) if content else ()


def begun_by(acts: Acts) -> str | None:
    """The name of the token that began the invocation; None: there was none."""
    return acts[0].by if acts and acts[0].act == "begin" else None
