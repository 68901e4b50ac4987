"""The stable name of a type: the same text in every process that has the type.

Two types may have the same JSON Schema and still accept different values, because a schema does not show
validators. So a row names the type that its answer must have, and other processes find the type by its name.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import sys
import types
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel
from pydantic.fields import FieldInfo

UNNAMED = "?"
"""Replaces a part that has no stable name: a lambda, a local class, an instance."""

MAX_NAME_CHARACTERS = 300
"""A longer name is cut, and the hash of the whole name is appended."""

_PLAIN = (str, bytes, int, float, Decimal, UUID, date, datetime, time, timedelta, types.NoneType)

_OF_THE_FIELD = ("annotation", "required")
"""Attributes of a `Field(…)` that depend on the annotation around it."""


def type_name(type_: Any) -> str:
    """Name a type by its module and qualified name, and by the types and validators that it is made of."""
    name = _name(type_)
    if len(name) <= MAX_NAME_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name[:MAX_NAME_CHARACTERS]}~{digest}{UNNAMED if UNNAMED in name else ''}"


def is_stable(name: str) -> bool:
    """Whether the name identifies one type, in this process and in any other."""
    return UNNAMED not in name


def _name(type_: Any) -> str:
    if type_ is None or type_ is types.NoneType:
        return "None"
    if type_ is Any:
        return "Any"
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        generic = type_.__pydantic_generic_metadata__
        if generic["origin"] is not None:
            return _applied(_name(generic["origin"]), generic["args"])
    origin = get_origin(type_)
    if origin is Annotated:
        base, *metadata = get_args(type_)
        return f"Annotated[{_name(base)}, {_values(metadata)}]"
    if origin is Literal:
        return f"Literal[{_values(get_args(type_))}]"
    if origin in (Union, types.UnionType):
        return _applied("Union", get_args(type_))
    if origin is not None:
        return _applied(_name(origin), get_args(type_))
    if isinstance(type_, list | tuple):  # the arguments of a Callable
        return _applied("", type_)
    if type_ is Ellipsis:
        return "..."
    return _place(type_)


def _applied(origin: str, arguments: Iterable[Any]) -> str:
    return f"{origin}[{', '.join(_name(argument) for argument in arguments)}]"


def _values(values: Iterable[Any]) -> str:
    return ", ".join(_value(value) for value in values)


def _value(value: Any) -> str:
    """Name a value in an annotation's metadata: a validator, a bound, a description."""
    if isinstance(value, enum.Enum):
        return f"{_place(type(value))}.{value.name}"
    if type(value) in _PLAIN:
        return f"{value!r}".replace(UNNAMED, "\\x3f")
    if isinstance(value, type) or get_origin(value) is not None:
        return _name(value)
    if isinstance(value, list | tuple | set | frozenset):
        inner = [_value(item) for item in value]
        return f"({', '.join(inner if isinstance(value, list | tuple) else sorted(inner))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_value(key)}: {_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, FieldInfo):
        arguments = ((key, item) for key, item in value.__repr_args__() if key not in _OF_THE_FIELD)
        return _called("Field", arguments)
    if dataclasses.is_dataclass(value):  # pydantic's validators and annotated_types' bounds
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return _called(_place(type(value)), fields)
    return _place(value) if callable(value) else UNNAMED


def _called(name: str, arguments: Iterable[tuple[str | None, Any]]) -> str:
    return f"{name}({', '.join(f'{key}={_value(value)}' for key, value in arguments)})"


def _place(thing: type | Callable[..., Any] | Any) -> str:
    """The module and qualified name of a class or function, if importing them finds that same object."""
    module = getattr(thing, "__module__", None)
    path = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    if not isinstance(module, str) or not isinstance(path, str):
        return UNNAMED
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is not thing and not _is_bound(found, thing):
        return UNNAMED
    return path if module == "builtins" else f"{module}.{path}"


def _is_bound(found: Any, thing: Any) -> bool:
    """Whether both are the same bound class method: each access creates a new, equal object."""
    return isinstance(thing, types.MethodType) and isinstance(thing.__self__, type) and found == thing
