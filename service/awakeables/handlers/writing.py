"""How values of a type are written so that the same type reads them again.

Decided once for each type, from pydantic's core schema: by alias, unless its own validators don't
read that form, then by name. A type that no form of writing suits is refused before a value of it
is made, since it would be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Node: TypeAlias = Mapping[str, Any]

_FIELDS = ("model-field", "dataclass-field", "typed-dict-field")


@dataclass(frozen=True, slots=True)
class Writing:
    """How a type's values are written.

    Attributes:
        by_alias: pydantic's argument of the same name; None: as each model's own settings say.
        secret: Why they can't be written at all without losing a part; None: they can.
        unread: Why the type reads neither form of them unless it is asked to read by name.
    """

    by_alias: bool | None
    secret: str | None = None
    unread: str | None = None


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a model, dataclass or typed dict: its names, and the settings of its owner."""

    owner: str
    name: str
    alias: str | None
    read_as: frozenset[str]
    settings: Node

    def written(self, by_alias: bool | None) -> str:
        chosen = self.settings.get("serialize_by_alias", False) if by_alias is None else by_alias
        return self.alias if chosen and self.alias is not None else self.name


def writing_of(core_schema: Any) -> Writing:
    """Decide how values are written of the type that pydantic has this core schema of."""
    fields: list[_Field] = []
    secrets: list[str] = []
    _look(core_schema, "the value", fields, secrets)
    secret = None
    if secrets:
        secret = (
            f"{secrets[0]} is a secret of pydantic's, which is written as '**********': give it a serializer "
            "of its own (pydantic.field_serializer), or keep a reference to the secret instead"
        )
    says_no = any(field.settings.get("serialize_by_alias") is False for field in fields)
    forms = (None, True, False) if says_no else (True, None, False)
    for by_alias in forms:
        if all(field.written(by_alias) in field.read_as for field in fields):
            return Writing(by_alias=by_alias, secret=secret)
    lost = next(field for field in fields if field.name not in field.read_as)
    unread = (
        f"{lost.owner}.{lost.name} is written as {lost.written(by_alias=True)!r} and read as "
        f"{' or '.join(map(repr, sorted(lost.read_as))) or 'a path'}: give it a serialization_alias that is "
        "read, or set validate_by_name=True in the model's configuration"
    )
    return Writing(by_alias=False, secret=secret, unread=unread)


def _look(node: Any, where: str, fields: list[_Field], secrets: list[str]) -> None:
    """Note the fields and secrets in a core schema, but for what a serializer of the user's own writes."""
    if isinstance(node, list | tuple):
        for part in node:
            _look(part, where, fields, secrets)
        return
    if not isinstance(node, Mapping):
        return
    serializer = node.get("serialization")
    if isinstance(serializer, Mapping) and callable(serializer.get("function")):
        if _masks(serializer["function"]):
            secrets.append(where)
        return
    if node.get("type") in ("model", "dataclass", "typed-dict") and not node.get("root_model"):
        owner = getattr(node.get("cls"), "__name__", None) or where
        for name, field in _fields_of(node):
            if field.get("serialization_exclude"):
                continue
            fields.append(_field(owner, name, field, node.get("config") or {}))
            _look(field, f"{owner}.{name}", fields, secrets)
        return
    for key, part in node.items():
        if key not in ("metadata", "serialization", "config", "function", "cls", "default"):
            _look(part, where, fields, secrets)


def _fields_of(node: Any) -> Iterator[tuple[str, Node]]:
    """The fields of a model, dataclass or typed dict, below whatever validators stand around them."""
    if isinstance(node, list | tuple):
        for part in node:
            if isinstance(part, Mapping) and part.get("type") in _FIELDS:
                yield part["name"], part
            else:
                yield from _fields_of(part)
    elif isinstance(node, Mapping):
        for key, part in node.items():
            if isinstance(part, Mapping) and part.get("type") in _FIELDS:
                yield key, part
            elif key in ("schema", "fields"):
                yield from _fields_of(part)


def _field(owner: str, name: str, field: Node, settings: Node) -> _Field:
    validation = field.get("validation_alias")
    if validation is None:
        read_as = {name}
    elif isinstance(validation, str):
        read_as = {validation}
    else:  # paths; one of a single step is a name like any other
        paths = [validation] if validation and not isinstance(validation[0], list) else validation
        read_as = {path[0] for path in paths if len(path) == 1 and isinstance(path[0], str)}
    if settings.get("validate_by_name") or settings.get("populate_by_name"):
        read_as |= {name}
    return _Field(owner, name, field.get("serialization_alias"), frozenset(read_as), settings)


def _masks(function: Any) -> bool:
    """Is it pydantic's own serializer of `SecretStr` and its like?"""
    name = getattr(function, "__name__", "")
    return getattr(function, "__module__", "") == "pydantic.types" and name.startswith("_serialize_secret")
