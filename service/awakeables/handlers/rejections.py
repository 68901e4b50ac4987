"""How an error that user code raised is told: it must always be kept, whatever it says."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw
from pydantic_core import to_json

from awakeables.core.outcomes import Rejection
from awakeables.core.texts import writable
from awakeables.errors import TerminalError
from awakeables.handlers.serde import decode_json


def rejection(reason: object, code: object, details: Any) -> Rejection:
    """A refusal that can be written and read again.

    What no text can hold is replaced, what JSON can't say is shown as text, and a code that is no
    whole number is told in the reason: a row or a record with it could not be read.
    """
    told = writable(str(reason))
    if not isinstance(code, int) or isinstance(code, bool):
        told, code = f"{told} (its code {writable(repr(code))} is no whole number)", 500
    return Rejection(reason=told, code=int(code), details=UNSET if details is None else Raw(_json(details)))


def rejection_of(error: TerminalError) -> Rejection:
    """A terminal error as the outcome that tells it."""
    return rejection(error.reason, error.code, error.details)


def _json(details: Any) -> bytes:
    try:
        text = to_json(details, inf_nan_mode="null", fallback=repr, bytes_mode="base64")
        decode_json(text)
    except ValueError:
        return to_json(ascii(details))
    return text
