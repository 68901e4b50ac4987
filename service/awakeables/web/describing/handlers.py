"""Handlers as OpenAPI operations, each with its own path and the schemas of its types."""

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
from awakeables.web.describing.contract import Json

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
IDEMPOTENCY_KEY: Final = {"$ref": "#/components/parameters/idempotency-key"}

_LOCAL: Final = "#/$defs/"
_COMPONENTS: Final = "#/components/schemas/"
_local_reference = re.compile(rf'"{re.escape(_LOCAL)}([^"]+)"')
_unfit_for_a_name = re.compile(r"[^A-Za-z0-9_-]+")


def handlers_of(app: App) -> Iterator[Handler]:
    """All handlers that can be called from outside, by service and name."""
    for _, service in sorted(app.services.items()):
        for _, handler in sorted(service.handlers.items()):
            if not handler.private:
                yield handler


class HandlerTypes:
    """Adds the types of handlers to a document's components, each once.

    Each definition of a schema becomes a component, because client generators make types only from
    components.
    """

    def __init__(self, schemas: Json) -> None:
        self._schemas = schemas
        self._names: dict[str, str] = {}
        self._made_of: dict[str, str] = {}

    def reference(self, schema: bytes) -> Json:
        """A schema as part of the document: a reference if its type has a name."""
        decoded: Json = json.loads(schema)
        definitions = decoded.pop("$defs", {})
        if "title" in decoded:
            return {"$ref": self._component(decoded, str(decoded["title"]), definitions)}
        linked: Json = self._linked(decoded, definitions)
        return linked

    def _component(self, schema: Json, wanted: str, definitions: Json) -> str:
        """The reference to a type's component, which is added on first use.

        Types are identified by their whole definition, so two types with the same name get two
        components, and a type that is used in several places gets one.
        """
        identity = json.dumps([schema, {name: definitions[name] for name in _needed(schema, definitions)}])
        if identity not in self._names:
            self._names[identity] = name = self._free_name(wanted)
            self._schemas[name] = {}  # reserves the name: the type may refer to itself
            # Client generators name a type by its title, if it has one.
            linked = self._linked(schema, definitions) | ({} if name == wanted else {"title": name})
            self._schemas[name] = linked
            # If a schema has two types with the same name, pydantic gives both longer names than elsewhere.
            made_of = json.dumps([wanted, linked | {"title": wanted}]).replace(
                f'"{_COMPONENTS}{name}"', '"#"'
            )
            first = self._made_of.setdefault(made_of, name)
            if first != name:
                del self._schemas[name]
                self._names[identity] = first
        return _COMPONENTS + self._names[identity]

    def _linked(self, part: Any, definitions: Json) -> Any:
        """A part of a schema, with its references pointing to the components."""
        if isinstance(part, list):
            return [self._linked(item, definitions) for item in part]
        if not isinstance(part, dict):
            return part
        linked = {name: self._linked(value, definitions) for name, value in part.items()}
        if isinstance(part.get("$ref"), str):
            linked["$ref"] = self._target(part["$ref"], definitions)
        mapping = (
            part["discriminator"].get("mapping") if isinstance(part.get("discriminator"), dict) else None
        )
        if isinstance(mapping, dict):
            targets = {tag: self._target(reference, definitions) for tag, reference in mapping.items()}
            linked["discriminator"]["mapping"] = targets
        return linked

    def _target(self, reference: str, definitions: Json) -> str:
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


def _needed(schema: Json, definitions: Json) -> list[str]:
    """The names of the definitions that a schema refers to, directly or through others."""
    needed: set[str] = set()
    waiting = [schema]
    while waiting:
        found = {name for name in _local_reference.findall(json.dumps(waiting.pop())) if name in definitions}
        waiting += [definitions[name] for name in found - needed]
        needed |= found
    return sorted(needed)


def handler_paths(handler: Handler, generic: Json, types: HandlerTypes) -> Json:
    """The path items of one handler.

    Args:
        handler: The handler.
        generic: The contract's two call operations for handlers of its kind, by path.
        types: The components; the handler's types are added.
    """
    own = {}
    summary, text = _words(handler)
    for path, operation in generic.items():
        described = copy.deepcopy(operation)
        described["operationId"] = f"{handler.service}.{handler.name}" + (
            ".send" if path.endswith("send") else ""
        )
        described["tags"] = [handler.service]
        if summary:
            described["summary"] = summary + (" (don't wait)" if path.endswith("send") else "")
        if text:
            described["description"] = text
        described["parameters"] = [
            given
            for given in described["parameters"]
            if given.get("in") != "path" or (handler.keyed and given["name"] == "key")
        ]
        if handler.kind == "run":
            described["parameters"].remove(IDEMPOTENCY_KEY)  # it is begun once per key anyway
        if not handler.exclusive:
            described["responses"].pop("429", None)  # nothing queues for it
        described["requestBody"] = _body(handler, types)
        if described["requestBody"] is None:
            del described["requestBody"]
        if "200" in described["responses"]:
            described["responses"]["200"]["content"] = _content(handler.output, handler.output.written, types)
        concrete = path.format(
            service=handler.service, object=handler.service, key="{key}", handler=handler.name
        )
        own[concrete] = {"post": described}
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
    """The input's default, if JSON can express it."""
    if not handler.has_default:
        return {}
    try:
        return {"default": decode_json(handler.input.resolution(handler.default).content)}
    except Exception:  # a default is not validated, and a user's serializer may raise anything
        return {}


def _content(codec: Codec[Any], schema: bytes | None, types: HandlerTypes) -> Json:
    if codec.kind != "json":
        return {BYTES: {"schema": {}}}
    return {JSON: {"schema": {} if schema is None else types.reference(schema)}}


def _takes_null(codec: Codec[Any]) -> bool:
    """Whether the body may be absent, which means null."""
    try:
        codec.decode(b"null")
    except Exception:  # a user's validator may raise anything
        return False
    return True


def _words(handler: Handler) -> tuple[str, str]:
    """The first line of the function's docstring, and the rest."""
    summary, _, text = (inspect.getdoc(handler.function) or "").partition("\n")
    return summary.strip(), text.strip()
