"""How an error that user code raised is told: it must always be kept, whatever it says."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw
from pydantic_core import to_json

from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Rejection
from awakeables.core.texts import bounded, message_of

MAX_DETAILS_BYTES = 1_000_000
"""Larger details belong in a store of the user's own, with a reference here."""

FAILED = 500
"""The code of a failure that names none."""


def rejection(reason: object, code: object, details: Any) -> Rejection:
    """A refusal that can be written and read again, of bounded size.

    What no text can hold is replaced, what JSON can't say is shown as text, and a code that is no
    whole number is told in the reason: a row or a record with it could not be read. So it is told when
    details were too large, and left out; a long reason is cut.
    """
    told = message_of(reason)
    if not isinstance(code, int) or isinstance(code, bool):
        told, code = f"{told} (its code {bounded(message_of(code, repr), 80)} is not an integer)", FAILED
    kept = None if details is None else _json(details)
    if kept is not None and len(kept) > MAX_DETAILS_BYTES:
        told += f" (its details were left out: {len(kept):,} bytes, at most {MAX_DETAILS_BYTES:,})"
        kept = None
    return Rejection(reason=told, code=int(code), details=UNSET if kept is None else Raw(kept))


def rejection_of(error: Exception) -> Rejection:
    """A `TerminalError` or `Reject` as an outcome, also if its class did not call `super().__init__`."""
    reason, details = _fact(error, "reason", error), _fact(error, "details", None)
    return rejection(reason, _fact(error, "code", FAILED), details)


def _fact(error: Exception, name: str, otherwise: Any) -> Any:
    try:
        return getattr(error, name)
    except BaseException:  # maybe a property of the user's own
        return otherwise


def _json(details: Any) -> bytes:
    try:
        text = to_json(details, inf_nan_mode="null", fallback=repr, bytes_mode="base64")
        decode_json(text)
    except BaseException:  # a serializer or a repr of the user's own may raise anything
        return to_json(message_of(details, ascii))
    return text
