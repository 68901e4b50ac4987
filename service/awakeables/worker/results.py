"""How what a function returned becomes the outcome that settles the awakeable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from pydantic import TypeAdapter
from pydantic_core import to_json

from awakeables.core.outcomes import Resolution
from awakeables.handlers.serde import Serde, adapter_of, checked_json, codec_for

ResultWriter: TypeAlias = Callable[[Any], Resolution]


def writer_for(type_: Any, serde: Serde[Any] | None = None) -> ResultWriter:
    """The writer of a function's results, by its return annotation.

    A writer raises (whatever the type's serializer or the serde raises) for a value that is not
    of the type: the service would refuse it as `invalid`, where the worker's author never sees it.

    Raises:
        TypeError: Pydantic can't make a serializer of the type, or the serde is none.
    """
    if serde is not None:
        return codec_for(None, serde).resolution
    if type_ is bytes:
        return _bytes
    if type_ is Any:
        return lambda value: _json(to_json(value))
    try:
        adapter = adapter_of(type_)
    except Exception as error:
        raise TypeError(f"{type_!r} is no type that pydantic can write: {error}") from error
    may_be_none = _takes_none(adapter)

    def write(value: Any) -> Resolution:
        if value is None and not may_be_none:  # pydantic writes it without a warning
            raise TypeError(f"the function is annotated to return {type_!r}, and returned None")
        return _json(adapter.dump_json(value, warnings="error"))

    return write


def _takes_none(adapter: TypeAdapter[Any]) -> bool:
    try:
        adapter.validate_python(None)
    except Exception:  # validators are the author's code and raise what they like
        return False
    return True


def _json(text: bytes) -> Resolution:
    return Resolution.of_json(checked_json(text))


def _bytes(value: Any) -> Resolution:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"the function is annotated to return bytes, and returned {type(value).__name__}")
    return Resolution.of_bytes(bytes(value))
