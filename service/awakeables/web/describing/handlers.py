"""Handlers as OpenAPI operations: paths of their own, with the schemas of their types."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from awakeables.handlers.serde import Codec
from awakeables.handlers.service import App, Handler

Json = dict[str, Any]

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"

_LOCAL: Final = "#/$defs/"
_unfit_for_a_name = re.compile(r"[^A-Za-z0-9._-]+")


def described(app: App) -> Iterator[Handler]:
    """All handlers, by service and name."""
    for _, service in sorted(app.services.items()):
        for _, handler in sorted(service.handlers.items()):
            yield handler


class HandlerTypes:
    """Puts the schemas of types among a document's components, each once."""

    def __init__(self, schemas: Json) -> None:
        self._schemas = schemas
        self._names: dict[str, str] = {}

    def reference(self, schema: bytes) -> Json:
        """A schema as a part of the document: by reference, unless it is as short as one."""
        told: Json = json.loads(schema)
        if "properties" not in told and "$defs" not in told:
            return told
        text = schema.decode()
        if text not in self._names:
            self._names[text] = name = self._free_name(told.get("title") or "Value")
            self._schemas[name] = _moved(told, f"#/components/schemas/{name}/$defs/")
        return {"$ref": f"#/components/schemas/{self._names[text]}"}

    def _free_name(self, title: str) -> str:
        name = wanted = _unfit_for_a_name.sub("_", title)
        number = 2
        while name in self._schemas:
            name, number = f"{wanted}.{number}", number + 1
        return name


def handler_paths(handler: Handler, generic: Json, types: HandlerTypes) -> Json:
    """The path items of one handler.

    Args:
        handler: Which.
        generic: The path items of calls in general.
        types: Takes the schemas.
    """
    own = {}
    summary, text = _words(handler)
    for path, item in generic.items():
        told = copy.deepcopy(item["post"])
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
    return {
        "required": handler.input.kind == "json" and not _takes_null(handler.input),
        "content": _content(handler.input, handler.input.schema, types),
    }


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


def _moved(schema: Any, to: str) -> Any:
    """The schema with its references to its own definitions led to where they will stand."""
    if isinstance(schema, dict):
        return {key: _moved(value, to) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_moved(value, to) for value in schema]
    if isinstance(schema, str) and schema.startswith(_LOCAL):
        return to + schema.removeprefix(_LOCAL)
    return schema


def _words(handler: Handler) -> tuple[str, str]:
    """The first line of the function's docstring, and the rest."""
    summary, _, text = (inspect.getdoc(handler.function) or "").partition("\n")
    return summary.strip(), text.strip()
