"""The OpenAPI document of an app: `schemas/openapi.json` plus each handler with its types."""

from __future__ import annotations

from typing import Final

from awakeables.handlers.service import App
from awakeables.web.describing.contract import Json, contract
from awakeables.web.describing.handlers import HandlerTypes, handler_paths, handlers_of

CALL: Final = "/{service}/{handler}"
SEND: Final = "/{service}/{handler}/send"
HANDLERS: Final = {"name": "handlers"}
"""The tag of these two. In an app's document, each service is a tag of its own."""


def openapi(app: App, *, version: str) -> Json:
    """Describe the HTTP interface of an app.

    Args:
        app: The app; its handlers replace the two generic paths.
        version: The service's release.
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
