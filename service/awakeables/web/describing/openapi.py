"""The OpenAPI document of an app: `schemas/openapi.json`, and each handler with its types."""

from __future__ import annotations

from typing import Final

from awakeables.handlers.service import App
from awakeables.web.describing.contract import Json, contract
from awakeables.web.describing.handlers import HandlerTypes, handler_paths, handlers_of

CALL: Final = "/{service}/{handler}"
SEND: Final = "/{service}/{handler}/send"
HANDLERS: Final = {"name": "handlers"}
"""The tag of these two; each service is a tag of its own where handlers have paths of their own."""


def openapi(app: App, *, version: str) -> Json:
    """Describe what is served.

    Args:
        app: Whose handlers take the place of the two generic paths.
        version: Of the service.
    """
    document = contract("openapi.json")
    document["info"] |= {"title": app.name, "version": version}
    paths = document["paths"]
    generic = {path: paths.pop(path)["post"] for path in (CALL, SEND)}
    types = HandlerTypes(document["components"]["schemas"])
    for handler in handlers_of(app):
        paths |= handler_paths(handler, generic, types)
    document["tags"].remove(HANDLERS)
    document["tags"][:0] = [{"name": service} for service in sorted(app.services)]
    return document
