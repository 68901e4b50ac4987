"""Chooses how values of a type are written, so that the same type can read them again.

The choice is made once for each type, from pydantic's core schema: fields are written by alias, or by name
if the type does not read its own aliases. A type that can read neither form is refused when it is declared,
before a value of it is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

Node: TypeAlias = Mapping[str, Any]

_FIELDS = ("model-field", "dataclass-field", "typed-dict-field")


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """How a type's values are written.

    Attributes:
        by_alias: Pydantic's argument of the same name; None: each model's own settings decide.
        round_trip: Pydantic's argument of the same name: computed fields are left out, and a `Json` is
            written as its text.
        lazy: It has an `Iterable`, whose items pydantic checks only as they are iterated.
        secret: Why no value can be written without losing a part; None if it can.
        unread: Why the type reads neither form unless it is configured to read by name; None if it reads one.
    """

    by_alias: bool | None
    round_trip: bool = False
    lazy: bool = False
    secret: str | None = None
    unread: str | None = None


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a model, dataclass or typed dict: its names, and its owner's settings."""

    owner: str
    name: str
    alias: str | None
    read_as: frozenset[str]
    settings: Node

    def written(self, by_alias: bool | None) -> str:
        chosen = self.settings.get("serialize_by_alias", False) if by_alias is None else by_alias
        return self.alias if chosen and self.alias is not None else self.name


@dataclass(slots=True)
class _Found:
    """The parts of a core schema that decide how its values are written."""

    fields: list[_Field] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    is_changed: bool = False
    is_lazy: bool = False


def dump_options_of(core_schema: Any) -> DumpOptions:
    """Choose how values of the type with this core schema are written."""
    found = _Found()
    _look(core_schema, "the value", found)
    secret = None
    if found.secrets:
        secret = (
            f"{found.secrets[0]} is a pydantic secret, which is written as '**********': give it its own "
            "serializer (pydantic.field_serializer), or keep a reference to the secret instead"
        )
    decided = DumpOptions(by_alias=False, round_trip=found.is_changed, lazy=found.is_lazy, secret=secret)
    says_no = any(each.settings.get("serialize_by_alias") is False for each in found.fields)
    forms = (None, True, False) if says_no else (True, None, False)
    for by_alias in forms:
        if all(each.written(by_alias) in each.read_as for each in found.fields):
            return replace(decided, by_alias=by_alias)
    lost = next(each for each in found.fields if each.name not in each.read_as)
    unread = (
        f"{lost.owner}.{lost.name} is written as {lost.written(by_alias=True)!r} and read as "
        f"{' or '.join(map(repr, sorted(lost.read_as))) or 'a path'}: give it a serialization_alias that it "
        "also reads, or set validate_by_name=True in the model's configuration"
    )
    return replace(decided, unread=unread)


def _look(node: Any, where: str, found: _Found) -> None:
    """Collect these parts of a core schema, except below a serializer that the user defined."""
    if isinstance(node, list | tuple):
        for part in node:
            _look(part, where, found)
        return
    if not isinstance(node, Mapping):
        return
    serializer = node.get("serialization")
    if isinstance(serializer, Mapping) and callable(serializer.get("function")):
        if _masks(serializer["function"]):
            found.secrets.append(where)
        return
    if node.get("type") in ("model", "dataclass", "typed-dict") and not node.get("root_model"):
        owner = getattr(node.get("cls"), "__name__", None) or where
        settings = node.get("config") or {}
        if settings.get("extra_fields_behavior", "ignore") != "ignore" and _computes(node):
            found.is_changed = True
        for name, part in _fields_of(node):
            if part.get("serialization_exclude"):
                continue
            found.fields.append(_field(owner, name, part, settings))
            _look(part, f"{owner}.{name}", found)
        return
    found.is_changed |= node.get("type") == "json"
    found.is_lazy |= node.get("type") == "generator"
    for key, part in node.items():
        if key not in ("metadata", "serialization", "config", "function", "cls", "default"):
            _look(part, where, found)


def _fields_of(node: Any) -> Iterator[tuple[str, Node]]:
    """The fields of a model, dataclass or typed dict, below any validators that wrap them."""
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


def _computes(node: Any) -> bool:
    """Whether it has computed fields, which are written and not read."""
    return isinstance(node, Mapping) and bool(node.get("computed_fields") or _computes(node.get("schema")))


def _field(owner: str, name: str, node: Node, settings: Node) -> _Field:
    validation = node.get("validation_alias")
    if validation is None:
        read_as = {name}
    elif isinstance(validation, str):
        read_as = {validation}
    else:  # paths; one of a single step is a plain name
        paths = [validation] if validation and not isinstance(validation[0], list) else validation
        read_as = {path[0] for path in paths if len(path) == 1 and isinstance(path[0], str)}
    if settings.get("validate_by_name") or settings.get("populate_by_name"):
        read_as |= {name}
    return _Field(owner, name, node.get("serialization_alias"), frozenset(read_as), settings)


def _masks(function: Any) -> bool:
    """Whether it is pydantic's own serializer of `SecretStr` and similar types."""
    name = getattr(function, "__name__", "")
    return getattr(function, "__module__", "") == "pydantic.types" and name.startswith("_serialize_secret")
