"""`/openapi.json` is schemas/openapi.json with the app's handlers; routes and answers are as it says."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args

import msgspec
import pytest
import schemathesis
from pydantic import BaseModel

from awakeables.core.awakeables import AwakeableState
from awakeables.core.effects import EffectState
from awakeables.handlers.context import Context
from awakeables.handlers.invoking import LONGEST_KEY, LONGEST_OBJECT_KEY
from awakeables.handlers.service import App, KeyedGroup, Service
from awakeables.telemetry.vocabulary import LETTER_CODES
from awakeables.web import views
from awakeables.web.describing.contract import contract
from awakeables.web.describing.openapi import openapi
from awakeables.web.invocations import LISTED_STATUSES
from awakeables.web.lists import LARGEST_LIMIT, USUAL_LIMIT
from awakeables.web.objects import HAVING
from awakeables.web.problems import MEDIA_TYPE
from awakeables.web.routing import RouteEntry
from unit.web.harness import Web, carts, orders, serving, signups

PROBLEM = MEDIA_TYPE.decode()

PROSE = ("description", "summary", "title")
GENERIC = "/{service}/{handler}"
GENERIC_OF_OBJECTS = "/{object}/{key}/{handler}"
OWN = ("/orders/", "/carts/", "/signups/")


def authored() -> Any:
    return contract("openapi.json")


def without_prose(document: Any) -> Any:
    """What a program reads of it; a *property* that is called `title` stays."""
    if isinstance(document, dict):
        return {
            name: without_prose(value)
            for name, value in document.items()
            if not (name in PROSE and isinstance(value, str))
        }
    return [without_prose(value) for value in document] if isinstance(document, list) else document


def rows(web: Web) -> list[RouteEntry]:
    return web.app._routes.rows


async def served(web: Web) -> Any:
    response = await web.client.get("/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    return response.json()


def resolved(document: Any, given: Any) -> Any:
    while "$ref" in given:
        reference, given = given["$ref"], document
        for name in reference.removeprefix("#/").split("/"):
            given = given[name]
    return given


def test_what_is_authored_is_openapi() -> None:
    schemathesis.openapi.from_dict(authored()).validate()


async def test_what_is_served_is_openapi(web: Web) -> None:
    schemathesis.openapi.from_dict(await served(web)).validate()


async def test_the_fixed_routes_are_served_as_they_are_authored(web: Web) -> None:
    expected, document = authored(), await served(web)
    fixed = {path: item for path, item in document["paths"].items() if not path.startswith(OWN)}
    for generic in (GENERIC, GENERIC_OF_OBJECTS):
        del expected["paths"][generic], expected["paths"][f"{generic}/send"]
    assert fixed == expected["paths"]
    assert set(expected["components"]) == set(document["components"])
    for kind, parts in expected["components"].items():
        assert document["components"][kind].items() >= parts.items()
    assert (document["openapi"], document["servers"]) == (expected["openapi"], expected["servers"])
    fixed_tags = [tag["name"] for tag in expected["tags"] if tag["name"] != "handlers"]
    assert [tag["name"] for tag in document["tags"]] == ["carts", "orders", "signups", *fixed_tags]


def views_below(view: type[views.View]) -> Iterator[type[views.View]]:
    for below in view.__subclasses__():
        yield below
        yield from views_below(below)


def test_whatever_is_answered_has_the_fields_that_are_authored() -> None:
    """The answers are made of these types, so their fields are the schemas' fields, with the same types."""
    _, made = msgspec.json.schema_components(
        sorted(views_below(views.View), key=lambda view: view.__name__),
        ref_template="#/components/schemas/{name}",
    )
    made = json.loads(json.dumps(made).replace('View"', '"'))
    assert without_prose(made) == without_prose(authored()["components"]["schemas"])


def query_of(path: str, name: str, method: str = "get") -> Any:
    [schema] = [p["schema"] for p in authored()["paths"][path][method]["parameters"] if p.get("name") == name]
    return schema


@pytest.mark.parametrize(
    ("path", "name", "method", "words"),
    [
        ("/awakeables", "state", "get", get_args(AwakeableState)),
        ("/invocations", "status", "get", LISTED_STATUSES),
        ("/outbox", "state", "get", get_args(EffectState)),
        ("/objects/{object}", "having", "get", HAVING),
        ("/dead-letters/purge", "code", "post", LETTER_CODES),
    ],
)
def test_the_words_that_a_query_may_have_are_those_of_the_code(
    path: str, name: str, method: str, words: Any
) -> None:
    assert query_of(path, name, method)["enum"] == sorted(words)


def test_the_limits_that_are_documented_are_those_of_the_code() -> None:
    key = authored()["components"]["parameters"]["idempotency-key"]["schema"]
    assert key["maxLength"] == LONGEST_KEY
    for path in (
        *("/awakeables", "/invocations", "/dead-letters", "/outbox"),
        *("/objects/{object}", "/objects/{object}/{key}/state"),
    ):
        limit = query_of(path, "limit")
        assert (limit["maximum"], limit["default"]) == (LARGEST_LIMIT, USUAL_LIMIT)
    keys = [
        given
        for item in authored()["paths"].values()
        for method, operation in item.items()
        if method != "description"
        for given in operation["parameters"]
        if (given.get("name"), given.get("in")) == ("key", "path")
    ]
    assert len(keys) == 7
    for given in keys:
        assert given["schema"]["maxLength"] == LONGEST_OBJECT_KEY
        assert f"1 to {LONGEST_OBJECT_KEY:,} bytes" in given["description"]


@pytest.mark.parametrize("kind", ["awakeable", "invocation"])
def test_every_schema_of_an_id_has_one_pattern(kind: str) -> None:
    """In the path and in every schema that has it; what the answers are made of decides."""
    start = {"awakeable": "^prom_1", "invocation": "^inv_1"}[kind]
    type_ = {"awakeable": views.AwakeableId, "invocation": views.InvocationId}[kind]
    patterns = [found for found in re.findall(r"'pattern': '([^']+)'", str(authored())) if start in found]
    assert set(patterns) == {msgspec.json.schema(type_)["pattern"]}


@pytest.mark.parametrize(
    ("group", "generic", "own"),
    [
        (orders, GENERIC, "/orders/{handler}"),
        (carts, GENERIC_OF_OBJECTS, "/carts/{{key}}/{handler}"),
        (signups, GENERIC_OF_OBJECTS, "/signups/{{key}}/{handler}"),
    ],
    ids=["service", "object", "workflow"],
)
async def test_a_handler_is_served_as_calls_are_authored_but_for_its_types(
    web: Web, group: Service | KeyedGroup, generic: str, own: str
) -> None:
    document = await served(web)
    for handler in (each for each in group.handlers.values() if not each.private):
        for end in ("", "/send"):
            told = document["paths"][own.format(handler=handler.name) + end]["post"]
            expected = copy.deepcopy(authored()["paths"][generic + end]["post"])
            expected["parameters"] = [
                p for p in expected["parameters"] if p.get("in") != "path" or p["name"] == "key"
            ]
            if handler.kind == "run":  # it is begun once per key anyway
                expected["parameters"].remove({"$ref": "#/components/parameters/idempotency-key"})
            if not handler.exclusive:
                expected["responses"].pop("429", None)
            content = told["responses"]["200"]["content"] if not end else {}
            assert set(content) <= {"application/json", "application/octet-stream"}
            for operation in (told, expected):
                operation.pop("requestBody", None)
                del operation["operationId"], operation["tags"]
                operation["responses"].get("200", {}).pop("content", None)
            assert without_prose(told) == without_prose(expected)


async def test_every_route_is_in_the_document_with_its_scope_and_parameters(web: Web) -> None:
    described = {}
    for path, item in authored()["paths"].items():
        for method, operation in item.items():
            if method == "description":
                continue
            names = [p["name"] for p in operation["parameters"] if p.get("in") == "query"]
            scopes = [scope for given in operation["security"] for scope in given["token"]]
            described[method.upper(), re.sub(r"\{\w+\}", "*", path)] = (names, scopes)
    table = {
        (row.method, row.path): (list(row.parameters), [row.scope] * bool(row.scope)) for row in rows(web)
    }
    assert described == table


async def test_ids_of_operations_are_unique(web: Web) -> None:
    document = await served(web)
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids)


async def test_whatever_is_referred_to_is_there_and_nothing_else(web: Web) -> None:
    for document in (authored(), await served(web)):
        references = set(re.findall(r"#/components/\w+/[\w.-]+", str(document)))
        for reference in references:
            resolved(document, {"$ref": reference})
        kinds = ("schemas", "responses", "headers", "parameters")
        there = {f"#/components/{kind}/{name}" for kind in kinds for name in document["components"][kind]}
        assert there == references


async def test_every_error_is_answered_as_problem_details(web: Web) -> None:
    document = await served(web)
    for path, item in document["paths"].items():
        for operation in item.values():
            for status, answer in operation["responses"].items():
                if status[0] in "45":
                    assert PROBLEM in resolved(document, answer)["content"], (path, status)


class Color(Enum):
    RED = "red"


class Node(BaseModel):
    """A tree."""

    color: Color
    left: Node | None = None


class Order(BaseModel):
    first: int


typed = Service("typed")


@typed.handler()
async def grow(ctx: Context, tree: Node) -> list[Node]:
    """Make a tree grow.

    It takes <b>years</b>.
    """
    return [tree]


@typed.handler()
async def perhaps(ctx: Context, order: Order | None) -> bytes:
    return b""


@typed.handler()
async def copy_bytes(ctx: Context, content: bytes) -> None: ...


@typed.handler()
async def nothing(ctx: Context) -> Order:
    return Order(first=1)


def document_of_typed() -> Any:
    return openapi(App("shop", services=[typed, orders]), version="1")


def test_a_handler_has_the_schemas_of_its_types() -> None:
    document = document_of_typed()
    schemathesis.openapi.from_dict(document).validate()
    call = document["paths"]["/typed/grow"]["post"]
    assert (call["summary"], call["description"]) == ("Make a tree grow.", "It takes <b>years</b>.")
    assert call["requestBody"]["required"] is True
    given = resolved(document, call["requestBody"]["content"]["application/json"]["schema"])
    node = resolved(document, given)
    assert resolved(document, node["properties"]["color"])["enum"] == ["red"]
    assert resolved(document, node["properties"]["left"]["anyOf"][0]) == node
    result = resolved(document, call["responses"]["200"]["content"]["application/json"]["schema"])
    assert resolved(document, result["items"])["title"] == "Node"


def test_bytes_are_described_as_bytes_and_nullable_fields_are_not_required() -> None:
    paths = document_of_typed()["paths"]
    octets: Any = {"application/octet-stream": {"schema": {}}}
    assert paths["/typed/copy_bytes"]["post"]["requestBody"] == {"required": False, "content": octets}
    assert paths["/typed/perhaps"]["post"]["requestBody"]["required"] is False
    assert paths["/typed/perhaps"]["post"]["responses"]["200"]["content"] == octets
    assert "requestBody" not in paths["/typed/nothing"]["post"]


def test_two_types_of_one_name_are_distinguished() -> None:
    document = document_of_typed()
    paths = document["paths"]
    ours = paths["/typed/nothing"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    theirs = paths["/orders/echo"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert list(resolved(document, ours)["properties"]) == ["first"]
    assert list(resolved(document, theirs)["properties"]) == ["id", "n"]


async def test_the_document_is_made_once_and_names_the_app() -> None:
    async with serving() as web:
        first = await served(web)
        service = web.api.app.services["orders"]
        handler = service.handlers.pop("echo")
        try:
            assert await served(web) == first
        finally:
            service.handlers["echo"] = handler
        assert first["info"]["title"] == "shop"


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json", "/docs"])
async def test_the_documents_need_the_scope_read(web: Web, path: str) -> None:
    assert [row.scope for row in rows(web) if row.path == path] == ["read"]
