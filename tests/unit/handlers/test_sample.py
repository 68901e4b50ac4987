"""The sample that `dev` prints of an input is taken by the handler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MultipleOf
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from awakeables.handlers.context import Context
from awakeables.handlers.patterns import matching
from awakeables.handlers.sample import sample_input, sample_of
from awakeables.handlers.service import Service

T = TypeVar("T")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    SMALL = 3


class Line(BaseModel):
    sku: Annotated[str, Field(pattern=r"^[A-Z]{2}-\d{4}$")]
    count: Annotated[int, Gt(0)] = 1
    price: Annotated[Decimal, Field(max_digits=6, decimal_places=2)]


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)

    order_id: UUID
    placed_at: datetime
    lines: Annotated[list[Line], Len(2)]
    ship_by: date | None = None


class Tree(BaseModel):
    left: Tree | None
    branches: list[Tree]
    by_name: dict[str, Tree]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Interval(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    owner: Line


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: T | None


class Typed(TypedDict):
    at: time
    color: Color


class Pair(NamedTuple):
    first: int
    second: str


@dataclass
class Point:
    x: float
    near: list[Point]


TYPES: list[Any] = [
    *(Any, str, int, float, bool, None, Decimal, datetime, date, time, timedelta, UUID, Path, ZoneInfo),
    *(IPv4Address, IPv6Address, IPv4Network, IPv6Network, IPv4Interface, IPv6Interface),
    *(pydantic.IPvAnyAddress, pydantic.IPvAnyNetwork, pydantic.IPvAnyInterface),
    *(pydantic.UUID1, pydantic.UUID3, pydantic.UUID4, pydantic.UUID5),
    *(pydantic.UUID6, pydantic.UUID7, pydantic.UUID8),
    *(pydantic.AnyUrl, pydantic.HttpUrl),
    *(pydantic.Base64Str, pydantic.Base64UrlStr, pydantic.Json[dict[str, int]]),
    *(pydantic.PositiveInt, pydantic.NegativeInt, pydantic.NonNegativeFloat, pydantic.NonPositiveInt),
    *(pydantic.StrictInt, pydantic.StrictStr, pydantic.FiniteFloat, pydantic.SecretStr),
    *(pydantic.DirectoryPath, pydantic.JsonValue),
    *(
        Color,
        Size,
        Literal["a", 1],
        Literal[None],
        str | None,
        int | str,
        list[int],
        set[Color],
        frozenset[int],
    ),
    *(
        dict[str, int],
        dict[int, str],
        dict[UUID, date],
        dict[Color, int],
        Mapping[date, float],
        tuple[int, str],
    ),
    *(
        tuple[int, ...],
        tuple[()],
        list[list[Order]],
        Pair,
        Typed,
        Point,
        Tree,
        Order,
        Line,
        Page[Order],
        Page[int],
    ),
    *(Cat | Dog, RootModel[list[Order]], RootModel[dict[str, Tree]]),
    Annotated[Cat | Dog, Field(discriminator="kind")],
    Annotated[list[int], Len(3, 5)],
    Annotated[list[int], Len(0, 0)],
    Annotated[set[int], Len(3)],
    Annotated[set[str], Len(2)],
    Annotated[set[Color], Len(2)],
    Annotated[dict[str, int], Len(2)],
    Annotated[str, Len(30)],
    Annotated[str, Len(0, 2)],
    Annotated[str, Len(0, 0)],
    Annotated[str, Len(5, 5), Field(pattern=r"^\d+$")],
    Annotated[str, Field(pattern=r"^(GET|POST) /[^/]+/?$")],
    Annotated[str, Field(pattern=r"^[^a]\w\s\S\D\W(x|y)+?(?:q){2,3}.$")],
    Annotated[dict[Annotated[str, Field(pattern="^k_[0-9]+$")], int], Len(1)],
    Annotated[int, Ge(1000)],
    Annotated[int, Lt(-5)],
    Annotated[int, Gt(5), Lt(7)],
    Annotated[int, MultipleOf(7)],
    Annotated[int, Ge(20), MultipleOf(7)],
    Annotated[float, Gt(0), Lt(0.5)],
    Annotated[float, Le(-2.5)],
    Annotated[Decimal, Field(max_digits=3, decimal_places=2, ge=0)],
    Annotated[int, Field(examples=[42])],
    Annotated[str, Field(examples=["o-17"])],
]

"""Types whose schemas say what fits them."""

NOT_TOLD: list[Any] = [
    *(pydantic.AwareDatetime, pydantic.NaiveDatetime, pydantic.PastDatetime, pydantic.FutureDatetime),
    *(pydantic.PastDate, pydantic.FutureDate, pydantic.ByteSize),
    *(pydantic.WebsocketUrl, pydantic.FtpUrl, pydantic.FileUrl),
    *(pydantic.PostgresDsn, pydantic.MongoDsn, pydantic.RedisDsn),
    *(dict[int, str], dict[UUID, date], Mapping[date, float]),
    Annotated[Decimal, Field(decimal_places=0, gt=10)],
    Annotated[int, Field(multiple_of=2)] | str,
]
"""Types of which their schemas leave something out: several samples are tried."""


def sample_for(type_: Any) -> tuple[str, Any]:
    service = Service("typed")

    async def handler(ctx: Context, given: Any) -> None: ...

    handler.__annotations__ = {"ctx": Context, "given": type_, "return": None}
    service.handler()(handler)
    declared = service.handlers["handler"]
    sample = sample_input(declared)
    assert sample is not None
    return sample, declared.input.decode(sample.encode())


@pytest.mark.parametrize("type_", [*TYPES, *NOT_TOLD], ids=str)
def test_case_u10_the_sample_of_an_input_is_taken(type_: Any) -> None:
    sample_for(type_)


leaves = st.sampled_from(TYPES)
constrained = st.builds(
    lambda low, span: Annotated[int, Ge(low), Le(low + span)], st.integers(-9, 9), st.integers(0, 3)
) | st.builds(lambda low, span: Annotated[str, Len(low, low + span)], st.integers(0, 9), st.integers(0, 3))
composed = st.recursive(
    leaves | constrained,
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),  # type: ignore[valid-type]
        inner.map(lambda one: dict[str, one]),  # type: ignore[valid-type]
        inner.map(lambda one: Optional[one]),  # noqa: UP045 - `|` takes no Literal[None]
        st.tuples(inner, inner).map(lambda two: tuple[two]),  # type: ignore[valid-type]
        inner.map(lambda one: pydantic.create_model("Made", field=(one, ...))),
    ),
    max_leaves=3,
)


@given(type_=composed)
def test_case_u10_the_sample_of_types_in_types_is_taken(type_: Any) -> None:
    sample_for(type_)


def test_case_u10_words_of_the_author_come_first() -> None:
    assert sample_for(Annotated[str, Field(examples=["o-17"])])[0] == '"o-17"'
    assert sample_for(Order)[0].startswith('{"orderId": "')


@pytest.mark.parametrize("pattern", ["(", r"^(?=b)a$", r"^\Zx$"])
def test_case_u10_a_pattern_that_is_not_understood_has_no_text(pattern: str) -> None:
    assert matching(pattern) is None


@pytest.mark.parametrize(
    "words",
    [
        {"$ref": "https://example.com/order.json"},
        {"$ref": "#/$defs/nowhere"},
        {"type": "string", "minLength": "three"},
        {"examples": {"first": 1}},
        {"allOf": [1]},
        {"type": "array", "items": {"type": "array", "items": {"$ref": "#"}}},
    ],
    ids=str,
)
def test_a_schema_that_the_author_wrote_by_hand_raises_no_error(words: dict[str, Any]) -> None:
    assert json.loads(sample_of(words, words)) is None or words.get("items")


def test_a_sample_is_no_larger_than_somebody_reads() -> None:
    schema = {"type": "array", "minItems": 10**12, "items": {"type": "string", "minLength": 10**12}}
    assert len(sample_of(schema, schema)) < 1_100_000
