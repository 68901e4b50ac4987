"""Handlers as OpenAPI operations: paths of their own, with the schemas of their types."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from awakeables.core.jsontext import decode_json
from awakeables.handlers.serde import Codec
from awakeables.handlers.service import App, Handler

Json = dict[str, Any]

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"

_LOCAL: Final = "#/$defs/"
_COMPONENTS: Final = "#/components/schemas/"
_local_reference = re.compile(rf'"{re.escape(_LOCAL)}([^"]+)"')
_unfit_for_a_name = re.compile(r"[^A-Za-z0-9_-]+")


def described(app: App) -> Iterator[Handler]:
    """All handlers, by service and name."""
    for _, service in sorted(app.services.items()):
        for _, handler in sorted(service.handlers.items()):
            yield handler


class HandlerTypes:
    """Puts the types of handlers among a document's components, each once.

    Each definition of a schema becomes a component of its own: generators make types of components
    and of nothing below them.
    """

    def __init__(self, schemas: Json) -> None:
        self._schemas = schemas
        self._names: dict[str, str] = {}
        self._made_of: dict[str, str] = {}

    def reference(self, schema: bytes) -> Json:
        """A schema as a part of the document: by reference, if its type has a name."""
        told: Json = json.loads(schema)
        definitions = told.pop("$defs", {})
        if "title" in told:
            return {"$ref": self._component(told, str(told["title"]), definitions)}
        linked: Json = self._linked(told, definitions)
        return linked

    def _component(self, told: Json, wanted: str, definitions: Json) -> str:
        """Where a type stands; it is put there when it is first met.

        Two types of one name are told apart, and one type is known again wherever it is used: by all
        that it is made of.
        """
        identity = json.dumps([told, {name: definitions[name] for name in _needed(told, definitions)}])
        if identity not in self._names:
            self._names[identity] = name = self._free_name(wanted)
            self._schemas[name] = {}  # so that its name is taken by the time it refers to itself
            # Generators go by the title, where there is one.
            linked = self._linked(told, definitions) | ({} if name == wanted else {"title": name})
            self._schemas[name] = linked
            # A schema that has two types of one name calls both by longer names than other schemas do.
            made_of = json.dumps([wanted, linked | {"title": wanted}]).replace(
                f'"{_COMPONENTS}{name}"', '"#"'
            )
            first = self._made_of.setdefault(made_of, name)
            if first != name:
                del self._schemas[name]
                self._names[identity] = first
        return _COMPONENTS + self._names[identity]

    def _linked(self, part: Any, definitions: Json) -> Any:
        """A part of a schema with its references led to the components."""
        if isinstance(part, list):
            return [self._linked(item, definitions) for item in part]
        if not isinstance(part, dict):
            return part
        linked = {name: self._linked(value, definitions) for name, value in part.items()}
        if isinstance(part.get("$ref"), str):
            linked["$ref"] = self._led(part["$ref"], definitions)
        mapping = (
            part["discriminator"].get("mapping") if isinstance(part.get("discriminator"), dict) else None
        )
        if isinstance(mapping, dict):
            led = {tag: self._led(reference, definitions) for tag, reference in mapping.items()}
            linked["discriminator"]["mapping"] = led
        return linked

    def _led(self, reference: str, definitions: Json) -> str:
        name = reference.removeprefix(_LOCAL)
        if name not in definitions:
            return reference
        found = definitions[name]
        return self._component(found, str(found.get("title", name)), definitions)

    def _free_name(self, wanted: str) -> str:
        name = plain = _unfit_for_a_name.sub("_", wanted) or "Type"
        number = 2
        while name in self._schemas:
            name, number = f"{plain}{number}", number + 1
        return name


def _needed(told: Json, definitions: Json) -> list[str]:
    """The names of the definitions that a schema refers to, directly or through others."""
    needed: set[str] = set()
    waiting = [told]
    while waiting:
        found = {name for name in _local_reference.findall(json.dumps(waiting.pop())) if name in definitions}
        waiting += [definitions[name] for name in found - needed]
        needed |= found
    return sorted(needed)


def handler_paths(handler: Handler, generic: Json, types: HandlerTypes) -> Json:
    """The path items of one handler.

    Args:
        handler: Which.
        generic: The operations of calls in general, by their paths.
        types: Takes the schemas.
    """
    own = {}
    summary, text = _words(handler)
    for path, operation in generic.items():
        told = copy.deepcopy(operation)
        told["operationId"] = f"{handler.service}.{handler.name}" + (".send" if path.endswith("send") else "")
        told["tags"] = [handler.service]
        if summary:
            told["summary"] = summary + (" (don't wait)" if path.endswith("send") else "")
        if text:
            told["description"] = text
        told["parameters"] = [given for given in told["parameters"] if given.get("in") != "path"]
        told["requestBody"] = _body(handler, types)
        if told["requestBody"] is None:
            del told["requestBody"]
        if "200" in told["responses"]:
            told["responses"]["200"]["content"] = _content(handler.output, handler.output.written, types)
        concrete = path.replace("{service}", handler.service).replace("{handler}", handler.name)
        own[concrete] = {"post": told}
    return own


def _body(handler: Handler, types: HandlerTypes) -> Json | None:
    if not handler.takes_input:
        return None
    content = _content(handler.input, handler.input.schema, types)
    if JSON in content:
        content[JSON]["schema"] |= _default(handler)
    may_be_absent = handler.has_default or handler.input.kind != "json" or _takes_null(handler.input)
    return {"required": not may_be_absent, "content": content}


def _default(handler: Handler) -> Json:
    """The default of the input, if there is one that JSON can say."""
    if not handler.has_default:
        return {}
    try:
        return {"default": decode_json(handler.input.resolution(handler.default).content)}
    except Exception:  # a default is not validated, and a serializer of the user's own may raise anything
        return {}


def _content(codec: Codec[Any], schema: bytes | None, types: HandlerTypes) -> Json:
    if codec.kind != "json":
        return {BYTES: {"schema": {}}}
    return {JSON: {"schema": {} if schema is None else types.reference(schema)}}


def _takes_null(codec: Codec[Any]) -> bool:
    """Is an absent body, which is null, enough?"""
    try:
        codec.decode(b"null")
    except Exception:  # a validator of the user's own may raise anything
        return False
    return True


def _words(handler: Handler) -> tuple[str, str]:
    """The first line of the function's docstring, and the rest."""
    summary, _, text = (inspect.getdoc(handler.function) or "").partition("\n")
    return summary.strip(), text.strip()
