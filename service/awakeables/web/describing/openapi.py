"""The OpenAPI document of an app: the fixed routes, and each handler with its types.

Held against schemas/openapi.yaml by tests, both ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from awakeables.handlers.service import App
from awakeables.web.describing.handlers import HandlerTypes, described, handler_paths
from awakeables.web.describing.operations import (
    CALL,
    OPERATIONS,
    PATH_PARAMETERS,
    REQUEST_HEADERS,
    SEND,
    Operation,
)
from awakeables.web.describing.refusals import HEADERS, REFUSALS, REQUEST_ID, Answer
from awakeables.web.routing import ANYTHING, Row
from awakeables.web.shapes import Shape

Json = dict[str, Any]

VERSION: Final = "3.1.0"
TOKEN: Final = "token"  # noqa: S105 - the name of a scheme
REF: Final = "#/components/schemas/{name}"

_variables = re.compile(r"\{(\w+)\}")


def openapi(app: App, rows: Iterable[Row], *, version: str) -> Json:
    """Describe what is served.

    Args:
        app: Whose handlers they are.
        rows: The table of routes.
        version: Of the service.
    """
    scopes = {(row.method.lower(), row.path): row.scope for row in rows}
    fixed = [operation for operation in OPERATIONS if operation not in (CALL, SEND)]
    paths = paths_of(fixed, scopes)
    components = components_of(OPERATIONS)
    types = HandlerTypes(components["schemas"])
    generic = paths_of((CALL, SEND), scopes)
    for handler in described(app):
        paths |= handler_paths(handler, generic, types)
    tags = [{"name": service} for service in sorted(app.services)]
    tags += [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in fixed)]
    return {
        "openapi": VERSION,
        "info": {
            "title": app.name,
            "version": version,
            "description": (
                "Tokens are asked for where the service has a tokens file; each operation names the "
                "scope that one needs. A request may bring its own x-request-id. Whatever fails is answered "
                "with problem details (RFC 9457)."
            ),
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": components,
    }


def paths_of(operations: Iterable[Operation], scopes: Mapping[tuple[str, str], str | None]) -> Json:
    """The path items of operations whose scopes the table of routes has.

    Raises:
        KeyError: The table has no such route.
    """
    paths: Json = {}
    for operation in operations:
        for number, path in enumerate(operation.paths):
            scope = scopes[operation.method, _variables.sub(ANYTHING, path)]
            described = _operation(operation, path, scope)
            if number:
                described["operationId"] += str(number + 1)
            paths.setdefault(path, {})[operation.method] = described
    return paths


def components_of(operations: Iterable[Operation]) -> Json:
    """What the path items refer to."""
    answers = [answer for operation in operations for answer in operation.answers.values()]
    bodies = [body for operation in operations for body in (operation.body or {}).values()]
    contents = [shown for answer in (*REFUSALS.values(), *answers) for shown in answer.content.values()]
    shapes = [shape for shape in (*contents, *bodies) if isinstance(shape, type)]
    _, schemas = msgspec.json.schema_components(shapes, ref_template=REF)
    return {
        "schemas": dict(sorted(schemas.items())),
        "responses": {name: _answer(refusal) for name, refusal in REFUSALS.items()},
        "headers": {
            name: {"description": text, "required": required, "schema": schema}
            for name, (text, required, schema) in HEADERS.items()
        },
        "parameters": {
            name: {"name": name, "in": "header", "description": text, "schema": schema}
            for name, (text, schema) in REQUEST_HEADERS.items()
        },
        "securitySchemes": {TOKEN: {"type": "http", "scheme": "bearer"}},
    }


def _operation(operation: Operation, path: str, scope: str | None) -> Json:
    shared = {
        status: {"$ref": f"#/components/responses/{name}"} for status, name in operation.refusals.items()
    }
    own = {status: _answer(answer) for status, answer in operation.answers.items()}
    told: Json = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation, path),
        "responses": dict(sorted((shared | own).items())),
        "security": [] if scope is None else [{TOKEN: [scope]}],
    }
    if operation.body is not None:
        told["requestBody"] = {"required": False, "content": _content(operation.body)}
    return told


def _parameters(operation: Operation, path: str) -> list[Json]:
    named = {name: PATH_PARAMETERS[name] for name in _variables.findall(path)}
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
        for name, (text, schema) in named.items()
    ]
    parameters += [
        {"name": name, "in": "query", "description": text, "schema": schema}
        for name, (text, schema) in operation.query.items()
    ]
    return parameters + [{"$ref": f"#/components/parameters/{name}"} for name in operation.headers]


def _answer(answer: Answer) -> Json:
    names = (REQUEST_ID, *answer.headers)
    return {
        "description": answer.description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": _content(answer.content),
    }


def _content(content: Mapping[str, Any]) -> Json:
    return {media_type: {"schema": _schema(shape)} for media_type, shape in content.items()}


def _schema(shape: Any) -> Any:
    """A shape by its name; a JSON Schema as it is, the shapes in it by their names."""
    if isinstance(shape, type) and issubclass(shape, Shape):
        return {"$ref": REF.format(name=shape.__name__)}
    if isinstance(shape, dict):
        return {key: _schema(value) for key, value in shape.items()}
    return [_schema(value) for value in shape] if isinstance(shape, list) else shape
