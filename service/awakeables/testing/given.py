"""What a test gives, checked and encoded as the service takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from awakeables.core.outcomes import encode_outcome
from awakeables.errors import InvalidInput
from awakeables.handlers.serde import codec_of_value, explain
from awakeables.handlers.service import Handler
from awakeables.handlers.state import State


def stored(state: State[Any], value: Any) -> bytes:
    """A value of the state as it is stored.

    Raises:
        InvalidInput: It does not fit.
    """
    try:
        return encode_outcome(state.codec.resolution(value))
    except Exception as error:  # a user's serializer may raise anything
        raise InvalidInput(f"the value does not fit the state {state.name!r}: {explain(error)}") from error


def given_input(handler: Handler, *given: Any) -> bytes | None:
    """The validated input of a handler, as it would arrive over HTTP.

    Raises:
        InvalidInput: It does not fit.
    """
    # If values of the type can't be serialized, the argument is its JSON.
    if not given:
        return handler.accept(None)
    codec = codec_of_value(given[0]) if handler.input.unanswerable else handler.input
    try:
        content = codec.answer(given[0]).content
    except Exception as error:  # a user's serializer may raise anything
        raise InvalidInput(f"the input does not fit {handler.name}: {explain(error)}") from error
    return handler.accept(content)


def checked_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """The headers that a test gives.

    Raises:
        TypeError: They are not a mapping of text to text.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {headers!r}")
    for name, text in headers.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"headers: names and values must be str, not {name!r}: {text!r}")
    return headers


def lower_case(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The same, with their names as they arrive over HTTP."""
    return {name.lower(): text for name, text in checked_headers(headers).items()}
