"""Makes an example of a handler's input from its JSON Schema, to show how to call it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from awakeables.handlers.patterns import matching
from awakeables.handlers.service import Handler

SchemaObject = dict[str, Any]

TEXT: Final = "text"
KEY: Final = "key"

FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "date-time": (
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05",
        "2099-01-02T03:04:05Z",
        "2001-01-02T03:04:05Z",
    ),
    "date": ("2026-01-02", "2001-01-02", "2099-01-02"),
    "time": ("03:04:05", "03:04:05Z"),
    "duration": ("PT1H", "P400D"),
    "uuid": ("018f3c1e-7b2a-4c4d-9e5f-0123456789ab", "018f3c1e-7b2a-7c4d-9e5f-0123456789ab"),
    "uuid1": ("018f3c1e-7b2a-1c4d-9e5f-0123456789ab",),
    "uuid3": ("018f3c1e-7b2a-3c4d-9e5f-0123456789ab",),
    "uuid4": ("018f3c1e-7b2a-4c4d-9e5f-0123456789ab",),
    "uuid5": ("018f3c1e-7b2a-5c4d-9e5f-0123456789ab",),
    "uuid6": ("018f3c1e-7b2a-6c4d-9e5f-0123456789ab",),
    "uuid7": ("018f3c1e-7b2a-7c4d-9e5f-0123456789ab",),
    "uuid8": ("018f3c1e-7b2a-8c4d-9e5f-0123456789ab",),
    "email": ("ann@example.com",),
    "name-email": ("Ann <ann@example.com>",),
    "hostname": ("example.com",),
    "uri": (
        "https://example.com/",
        "ws://example.com/",
        "ftp://example.com/",
        "file:///tmp/a",
        "redis://example.com",
    ),
    "multi-host-uri": ("postgresql://ann@example.com/shop", "mongodb://example.com/shop"),
    "ipv4": ("192.0.2.1",),
    "ipv6": ("2001:db8::1",),
    "ipvanyaddress": ("192.0.2.1",),
    "ipv4network": ("192.0.2.0/24",),
    "ipv6network": ("2001:db8::/32",),
    "ipvanynetwork": ("192.0.2.0/24",),
    "ipv4interface": ("192.0.2.1/24",),
    "ipv6interface": ("2001:db8::1/32",),
    "ipvanyinterface": ("192.0.2.1/24",),
    "base64": ("dGV4dA==",),
    "base64url": ("dGV4dA==",),
    "byte": ("dGV4dA==",),
    "json-string": ('{"any": "JSON"}',),
    "color": ("blue",),
    "regex": ("^a+$",),
    "zoneinfo": ("Europe/Berlin",),
    "file-path": ("/etc/hosts",),
    "directory-path": ("/tmp",),  # noqa: S108 - an example of a text
}
"""Texts by format. There are several, because a schema does not say whether a date must be in the future, or
which scheme a URI must have."""

MAX_TEXT_CHARACTERS: Final = 10_000
MAX_ITEMS: Final = 100
"""A larger example does not help a reader."""

VARIANTS: Final = max(len(texts) for texts in FORMATS.values())


class _Endless(Exception):
    """A type refers to itself here: another branch must be chosen, or the value left out."""


def sample_input(handler: Handler) -> str | None:
    """JSON text that fits the handler's input as far as its schema says; None: it has no input."""
    if not handler.takes_input:
        return None
    codec = handler.input
    if codec.schema is None:
        return '{"any": "JSON"}' if codec.kind == "json" else "any bytes"
    schema = json.loads(codec.schema)
    texts = [sample_of(schema, schema, variant=variant) for variant in range(VARIANTS)]
    for text in texts:
        try:
            codec.decode(text.encode())
        except Exception:  # noqa: S112 - the user's validators may raise anything
            continue
        return text
    return texts[0]


def sample_of(schema: Any, document: SchemaObject, *, variant: int = 0) -> str:
    """JSON text that fits a schema; its references point into the document.

    It is null if none can be made: the author of a type may have written any schema for it.
    """
    try:
        made = _Sampler(document, variant).make(schema, ())
    except (_Endless, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        made = None
    return json.dumps(made, ensure_ascii=False)


class _Sampler:
    """Makes one value for each part of a schema.

    Attributes:
        document: What references point into.
        variant: Which of the texts of a format is used.
    """

    def __init__(self, document: SchemaObject, variant: int) -> None:
        self._document = document
        self._variant = variant

    def make(self, schema: Any, within: tuple[str, ...], number: int = 0) -> Any:
        """A value that fits.

        Args:
            schema: A JSON Schema, which may be true or false.
            within: The references that were followed to get here.
            number: Its place among values that must differ.

        Raises:
            _Endless: The type contains itself.
        """
        if not isinstance(schema, dict):
            return "any"
        for key in ("examples", "enum"):
            if schema.get(key):
                return schema[key][number % len(schema[key])]
        if "const" in schema:
            return schema["const"]
        if "$ref" in schema:
            reference = schema["$ref"]
            if reference in within:
                raise _Endless
            others = {key: value for key, value in schema.items() if key not in ("$ref", "default")}
            return self.make(self._found(reference) | others, (*within, reference), number)
        if "default" in schema and not number:
            return schema["default"]
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self._any_of(schema[key], within, number)
        if schema.get("allOf"):
            merged = {key: value for key, value in schema.items() if key != "allOf"}
            for part in schema["allOf"]:
                merged |= self._found(part["$ref"]) if "$ref" in part else part
            return self.make(merged, within, number)
        return self._of_type(schema, within, number)

    def _of_type(self, schema: SchemaObject, within: tuple[str, ...], number: int) -> Any:
        kind = schema.get("type")
        match kind[0] if isinstance(kind, list) else kind:
            case "object":
                return self._object(schema, within)
            case "array":
                return self._array(schema, within)
            case "string":
                return self._text(schema, within, number)
            case "integer":
                return _number(schema, number + 1)
            case "number":
                return _number(schema, number + (1 if self._variant else 1.5))
            case "boolean":
                return number % 2 == 0
            case "null":
                return None
            case _:
                return "any"

    def _found(self, reference: str) -> SchemaObject:
        found: Any = self._document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
        return dict(found)

    def _any_of(self, schemas: list[Any], within: tuple[str, ...], number: int) -> Any:
        others = [schema for schema in schemas if schema != {"type": "null"}]
        first = self._variant % max(len(others), 1)
        for schema in [*others[first:], *others[:first], *schemas]:
            try:
                return self.make(schema, within, number)
            except _Endless:
                continue
        raise _Endless

    def _object(self, schema: SchemaObject, within: tuple[str, ...]) -> SchemaObject:
        properties, least = schema.get("properties", {}), schema.get("minProperties", 0)
        made = {name: self.make(properties.get(name, {}), within) for name in schema.get("required", ())}
        for pattern, values in schema.get("patternProperties", {}).items():
            made[matching(pattern) or KEY] = self.make(values, within)
        others = schema.get("additionalProperties", {})
        if (properties and not least) or others is False:
            return made
        if self._variant and not least:
            return made  # the schema says nothing about the keys, so a key that fits may not be found
        names = {"type": "string", "default": KEY} | schema.get("propertyNames", {})
        try:
            for number in range(min(max(least - len(made), 0 if made else 1), MAX_ITEMS)):
                made[str(self.make(names, within, number))] = self.make(others, within)
        except _Endless:
            if len(made) < least:
                raise
        return made

    def _array(self, schema: SchemaObject, within: tuple[str, ...]) -> list[Any]:
        made = [self.make(item, within) for item in schema.get("prefixItems", ())]
        count = min(max(schema.get("minItems", 1), 1), schema.get("maxItems", math.inf)) - len(made)
        if made and "items" not in schema:
            return made
        try:
            for number in range(int(min(max(count, 0), MAX_ITEMS))):
                made.append(
                    self.make(schema.get("items", {}), within, number if schema.get("uniqueItems") else 0)
                )
        except _Endless:
            if len(made) < schema.get("minItems", 0):
                raise
        return made

    def _text(self, schema: SchemaObject, within: tuple[str, ...], number: int) -> str:
        if "contentSchema" in schema:
            return json.dumps(self.make(schema["contentSchema"], within))
        texts = FORMATS.get(schema.get("format", ""))
        if texts:
            return texts[min(self._variant + number, len(texts) - 1)]
        least, most = min(schema.get("minLength", 0), MAX_TEXT_CHARACTERS), schema.get("maxLength")
        if "pattern" in schema:
            text = matching(schema["pattern"], least=least, most=most)
            if text is not None:
                return text
        text = (str(number) if number else "") + TEXT
        return text.ljust(least, TEXT[-1])[:most]


def _number(schema: SchemaObject, wanted: float) -> float:
    """The wanted number if it is allowed, otherwise one near the bounds."""
    step = schema.get("multipleOf")
    low: float = next((schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema), -math.inf)
    high: float = next((schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema), math.inf)

    def fits(number: float) -> bool:
        return (
            low <= number <= high
            and number != schema.get("exclusiveMinimum")
            and number != schema.get("exclusiveMaximum")
            and (step is None or number % step == 0)
        )

    candidates = [wanted, int(wanted), low, low + 1, high, high - 1, (low + high) / 2]
    if step is not None:
        first = step if math.isinf(low) else math.ceil(low / step) * step
        last = first if math.isinf(high) else math.floor(high / step) * step
        candidates += [first, first + step, last, last - step]
    found = next((number for number in candidates if math.isfinite(number) and fits(number)), wanted)
    return int(found) if schema.get("type") == "integer" else found
