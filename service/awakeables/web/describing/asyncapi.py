"""The AsyncAPI document of an app: `schemas/asyncapi.json` with its topics and the schemas of the records."""

from __future__ import annotations

import json
from typing import Any

from awakeables.handlers.service import App
from awakeables.web.describing.contract import Json, contract, contract_text


def asyncapi(app: App, *, version: str, verdicts: bool) -> Json:
    """Describe an app's topics from the service's side: it sends tasks and receives completions.

    Args:
        app: The app.
        version: The service's release.
        verdicts: Whether verdicts are published.
    """
    # App names have no characters that JSON would escape.
    document: Json = json.loads(contract_text("asyncapi.json").replace("{app}", app.name))
    document["info"] |= {"title": app.name, "version": version}
    channels = document["channels"]
    for channel in channels.values():
        if "app" in channel.get("parameters", ()):
            del channel["parameters"]
    if not verdicts:
        del channels["verdicts"], document["operations"]["sendVerdict"]
    for part in document["components"]["schemas"].values():
        part["schema"] = _embedded(part["schema"])
    return document


def _embedded(schema: Json) -> Json:
    """The schema, or the contents of the file that it refers to."""
    if "$ref" not in schema:
        return schema
    file = contract(schema["$ref"])
    whole: Json = _whole(file, file.get("$defs", {}))
    return whole


def _whole(part: Any, definitions: Json) -> Any:
    """Inline a schema's definitions where they are referred to.

    AsyncAPI parsers resolve `#/$defs/…` against the document, not against the enclosing schema. References
    to another part of the document don't work either, because the schema's `$id` is their base.
    """
    if isinstance(part, list):
        return [_whole(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    found = definitions[part["$ref"].removeprefix("#/$defs/")] if "$ref" in part else {}
    merged = found | {name: value for name, value in part.items() if name not in ("$ref", "$defs")}
    return {name: _whole(value, definitions) for name, value in merged.items()}
