"""The types of handlers in `/openapi.json`: components that generators of clients can make types of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from awakeables.handlers.context import Context
from awakeables.handlers.service import App, Service
from awakeables.web.describing.openapi import openapi
from unit.web import other_models

T = TypeVar("T")


class Unit(Enum):
    PIECE = "piece"
    KILO = "kilo"


class Line(BaseModel):
    sku: str
    unit: Unit = Unit.PIECE


class Order(BaseModel):
    id: str
    lines: list[Line]


class Tree(BaseModel):
    """It refers to itself, and to what refers back to it."""

    left: Tree | None = None
    branches: list[Branch] = []


class Branch(BaseModel):
    tree: Tree


class Card(BaseModel):
    kind: Literal["card"]
    number: str


class Transfer(BaseModel):
    kind: Literal["transfer"]
    iban: str


class Payment(BaseModel):
    means: Annotated[Card | Transfer, Field(discriminator="kind")]


class Page(BaseModel, Generic[T]):
    items: list[T]


class Orders(RootModel[list[Order]]):
    """A list with a name."""


@dataclass
class Point:
    x: int
    near: list[Point]


class Problem(BaseModel):
    """A name that the fixed routes have, too."""

    line: Line


class Typed(TypedDict):
    order: Order


class Both(BaseModel):
    ours: Order
    theirs: other_models.Order


service = Service("typed")
TYPES: dict[str, Any] = {
    "order": Order,
    "theirs": other_models.Order,
    "both": Both,
    "tree": Tree,
    "payment": Payment,
    "page_of_orders": Page[Order],
    "page_of_ints": Page[int],
    "orders": Orders,
    "point": Point,
    "problem": Problem,
    "typed": Typed,
    "many": list[Order],
    "perhaps": Order | None,
    "plain": dict[str, int],
}
for name, type_ in TYPES.items():

    async def handler(ctx: Context, given: Any) -> Any:
        return given

    handler.__name__ = name
    handler.__annotations__ = {"ctx": Context, "given": type_, "return": type_}
    service.handler()(handler)


APP = App("shop", services=[service])


@pytest.fixture
def document() -> Any:
    return openapi(APP, version="1")


def types_of(document: Any, name: str) -> tuple[Any, Any]:
    call = document["paths"][f"/typed/{name}"]["post"]
    answer = call["responses"]["200"]["content"]["application/json"]["schema"]
    return call["requestBody"]["content"]["application/json"]["schema"], answer


def test_case_u8_definitions_are_components_and_nothing_refers_below_one(document: Any) -> None:
    text = str(document)
    assert "$defs" not in text
    for name in ("Order", "Line", "Unit", "Tree", "Branch", "Card", "Transfer", "Page_Order_", "Page_int_"):
        assert name in document["components"]["schemas"]
    tree = document["components"]["schemas"]["Tree"]["properties"]
    assert tree["left"]["anyOf"][0] == {"$ref": "#/components/schemas/Tree"}
    assert tree["branches"]["items"] == {"$ref": "#/components/schemas/Branch"}
    means = document["components"]["schemas"]["Payment"]["properties"]["means"]
    assert means["discriminator"]["mapping"] == {
        "card": "#/components/schemas/Card",
        "transfer": "#/components/schemas/Transfer",
    }


def test_case_u8_one_type_is_one_component_and_two_of_one_name_are_two(document: Any) -> None:
    schemas = document["components"]["schemas"]
    given, _ = types_of(document, "order")
    assert types_of(document, "many")[0] == {"type": "array", "items": given}
    theirs, _ = types_of(document, "theirs")
    assert theirs != given

    def lines(reference: dict[str, str]) -> list[str]:
        order = schemas[reference["$ref"].rpartition("/")[2]]
        return list(schemas[order["properties"]["lines"]["items"]["$ref"].rpartition("/")[2]]["properties"])

    assert lines(given) == ["sku", "unit"]
    assert lines(theirs) == ["bytes_read"]
    both = schemas[types_of(document, "both")[0]["$ref"].rpartition("/")[2]]["properties"]
    assert (lines(both["ours"]), lines(both["theirs"])) == (["sku", "unit"], ["bytes_read"])
    assert {"detail", "status"} <= set(schemas["Problem"]["properties"])
