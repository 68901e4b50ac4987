"""Turns an error that user code raised into a rejection that can always be stored."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw
from pydantic_core import to_json

from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Rejection
from awakeables.core.texts import bounded, message_of

MAX_DETAILS_BYTES = 1_000_000
"""Larger details belong in the user's own storage, with a reference here."""

FAILED = 500
"""The code of a failure that names none."""


def rejection(reason: object, code: object, details: Any) -> Rejection:
    """A rejection that can be written and read back, of bounded size.

    Characters that UTF-8 can't encode are replaced, and values that JSON can't represent become text. A
    code that is not an integer, and details that are too large, are left out and mentioned in the reason.
    A long reason is cut.
    """
    text = message_of(reason)
    if not isinstance(code, int) or isinstance(code, bool):
        text, code = f"{text} (its code {bounded(message_of(code, repr), 80)} is not an integer)", FAILED
    kept = None if details is None else _json(details)
    if kept is not None and len(kept) > MAX_DETAILS_BYTES:
        text += f" (its details were left out: {len(kept):,} bytes, at most {MAX_DETAILS_BYTES:,})"
        kept = None
    return Rejection(reason=text, code=int(code), details=UNSET if kept is None else Raw(kept))


def rejection_of(error: Exception) -> Rejection:
    """A `TerminalError` or `Reject` as an outcome, also if its class did not call `super().__init__`."""
    reason, details = _fact(error, "reason", error), _fact(error, "details", None)
    return rejection(reason, _fact(error, "code", FAILED), details)


def _fact(error: Exception, name: str, otherwise: Any) -> Any:
    try:
        return getattr(error, name)
    except BaseException:  # it may be a property that the user defined
        return otherwise


def _json(details: Any) -> bytes:
    try:
        text = to_json(details, inf_nan_mode="null", fallback=repr, bytes_mode="base64")
        decode_json(text)
    except BaseException:  # the user's serializer or repr may raise anything
        return to_json(message_of(details, ascii))
    return text
