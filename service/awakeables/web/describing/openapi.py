"""The OpenAPI document of an app: `schemas/openapi.json` plus each handler with its types."""

from __future__ import annotations

from typing import Final

from awakeables.handlers.service import App
from awakeables.web.describing.contract import Json, contract
from awakeables.web.describing.handlers import HandlerTypes, handler_paths, handlers_of

CALLS: Final = ("/{service}/{handler}", "/{service}/{handler}/send")
CALLS_OF_OBJECTS: Final = ("/{object}/{key}/{handler}", "/{object}/{key}/{handler}/send")
HANDLERS: Final = {"name": "handlers"}
"""The tag of these four. In an app's document, each service or object is a tag of its own."""


def openapi(app: App, *, version: str) -> Json:
    """Describe the HTTP interface of an app.

    Args:
        app: The app; its handlers replace the generic paths.
        version: The service's release.
    """
    document = contract("openapi.json")
    document["info"] |= {"title": app.name, "version": version}
    paths = document["paths"]
    calls, calls_of_objects = (
        {path: paths.pop(path)["post"] for path in generic} for generic in (CALLS, CALLS_OF_OBJECTS)
    )
    types = HandlerTypes(document["components"]["schemas"])
    for handler in handlers_of(app):
        paths |= handler_paths(handler, calls_of_objects if handler.keyed else calls, types)
    document["tags"].remove(HANDLERS)
    document["tags"][:0] = [{"name": service} for service in sorted(app.services)]
    return document
