"""An example of a handler's input, made from its JSON Schema, to print as something to try."""

from __future__ import annotations

from typing import Any

import orjson

from awakeables.handlers.service import Handler

_BY_TYPE: dict[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "null": None,
}


def sample_input(handler: Handler) -> str | None:
    """JSON text that fits the handler's input as far as its schema tells; None: it takes none."""
    if not handler.takes_input:
        return None
    if handler.input.schema is None:
        return '{"any": "JSON"}' if handler.input.kind == "json" else "any bytes"
    schema = orjson.loads(handler.input.schema)
    return orjson.dumps(_sample(schema, schema.get("$defs", {}))).decode()


def _sample(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _sample(definitions.get(schema["$ref"].rsplit("/", 1)[-1], {}), definitions)
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "const" in schema:
        return schema["const"]
    if "default" in schema:
        return schema["default"]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _sample(schema[key][0], definitions)
    match schema.get("type"):
        case "object":
            required = schema.get("required", [])
            properties = schema.get("properties", {})
            return {name: _sample(properties.get(name, {}), definitions) for name in required}
        case "array":
            return [_sample(schema.get("items", {}), definitions)]
        case str(kind):
            return _BY_TYPE.get(kind)
        case _:
            return "any"
