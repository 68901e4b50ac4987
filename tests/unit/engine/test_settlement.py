"""The edge check (hard case 7, A4): the schema pinned with the row, and the type where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest
from msgspec.structs import replace
from pydantic import BaseModel, field_validator

from awakeables.core.awakeables import Completion, Heartbeat
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.engine import settlement
from awakeables.engine.settlement import PayloadValidator
from awakeables.handlers import serde
from awakeables.handlers.serde import Codec, codec_for
from awakeables.ports import Expectation


class Parcel(BaseModel):
    id: str
    weight: int = 1
    due: date | None = None

    @field_validator("weight")
    @classmethod
    def light(cls, value: int) -> int:
        if value > 100:
            raise ValueError("a parcel weighs at most 100")
        return value


class Tree(BaseModel):
    children: list[Tree] = []


class Rows:
    """What the store knows of awakeables."""

    def __init__(self, **expectations: Expectation) -> None:
        self.expectations_ = expectations
        self.asked: list[Sequence[str]] = []

    async def expectations(self, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
        self.asked.append(list(awakeable_ids))
        return {key: self.expectations_[key] for key in awakeable_ids if key in self.expectations_}


async def learn_nothing(awakeable_id: str, expected: Expectation) -> Codec[Any] | None:
    """The type is in no code that is served here."""
    return None


def of(type_: Any) -> Expectation:
    codec = codec_for(type_)
    return Expectation(
        invocation_id="inv_1",
        codec=codec.kind,
        type_name=codec.type_name,
        schema_hash=codec.schema_hash,
        schema=codec.schema,
    )


def elsewhere(schema: bytes) -> Expectation:
    """The type is in another process."""
    return Expectation(
        invocation_id="inv_1",
        codec="json",
        type_name="shop.Elsewhere",
        schema_hash=f"hash of {schema!r}",
        schema=schema,
    )


async def check(expectation: Expectation, text: bytes) -> Completion:
    completion = Completion(awakeable_id="a", body=Resolution.of_json(text), source="s")
    (checked,) = await PayloadValidator(Rows(a=expectation), learn_nothing).validate([completion])
    return checked


async def test_a_type_that_was_forgotten_is_checked_by_its_schema_until_it_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serde, "MOST_KEPT", 1)
    monkeypatch.setattr(serde, "_by_type", {})
    monkeypatch.setattr(serde, "_by_name", {})
    parcel = of(Parcel)
    codec_for(Tree)
    assert (await check(parcel, b'{"id":7}')).refusal is not None
    assert (await check(parcel, b'{"id":"a","weight":101}')).refusal is None
    codec_for(Parcel)
    assert "at most 100" in ((await check(parcel, b'{"id":"a","weight":101}')).refusal or "")


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (Parcel, b'{"id":"p","weight":100,"unknown":1}'),
        (Parcel, b'{"id":"p","due":"2026-02-28"}'),
        (int, b"18446744073709551617"),
        (int | None, b"null"),
        (list[int], b"[]"),
        (str, rb'"\u0000"'),
        (float, b"0.1000"),
        (Any, b"[1e300]"),
        (int, b'"1"'),
    ],
)
async def test_a_value_that_fits_is_marked_as_checked_by_the_schema_s_hash(type_: Any, text: bytes) -> None:
    checked = await check(of(type_), text)
    assert checked.refusal is None
    assert checked.checked == of(type_).schema_hash


@pytest.mark.parametrize(
    ("type_", "text", "problem"),
    [
        (Parcel, b'{"weight":1}', "id"),
        (Parcel, b'{"id":"p","weight":"heavy"}', "weight"),
        (Parcel, b'{"id":"p","weight":101}', "a parcel weighs at most 100"),
        (Parcel, b'{"id":"p","due":"2026-02-30"}', "due"),
        (Parcel, b"null", "value"),
        (int, b"1.5", "value"),
        (int, b'"one"', "value"),
        (list[int], b'[1,"x"]', "1"),
        (Tree, b'{"children":' * 150 + b"{}", "EOF"),
    ],
)
async def test_a_value_that_does_not_fit_is_refused_and_the_error_says_where(
    type_: Any, text: bytes, problem: str
) -> None:
    """A4: by the schema, or by the type's own validator where the process has it."""
    checked = await check(of(type_), text)
    assert checked.checked is None
    assert checked.refusal is not None
    assert checked.refusal.startswith("the value does not fit its type: ")
    assert problem in checked.refusal


async def test_a_refusal_never_shows_the_value_which_may_be_a_secret() -> None:
    for text in (b'{"id":"p","weight":"s3cret"}', b'{"id":"p","weight":31337}', b'["s3cret", 31337]'):
        refusal = (await check(of(Parcel), text)).refusal
        assert refusal
        assert "s3cret" not in refusal
        assert "31337" not in refusal


async def test_another_process_s_type_is_checked_by_its_schema_alone_with_formats_as_annotations() -> None:
    expected = elsewhere(b'{"type":"string","format":"date-time"}')
    assert (await check(expected, b'"2026-02-28T00:00:00"')).checked
    assert (await check(expected, b"7")).refusal


async def test_a_row_without_a_type_s_name_keeps_the_formats_of_its_schema() -> None:
    """An earlier release has written it, and promised so much."""
    nameless = replace(elsewhere(b'{"type":"string","format":"date"}'), type_name=None)
    assert (await check(nameless, b'"2026-02-28"')).checked
    assert (await check(nameless, b'"2026-02-30"')).refusal


async def test_a_very_deep_value_is_decided_on_like_any_other() -> None:
    deep = b'{"children":[' * 90 + b"{}" + b"]}" * 90
    assert (await check(of(Tree), deep)).checked
    assert (await check(of(Tree), deep.replace(b"{}", b"5"))).refusal


CUSTOM = Expectation(invocation_id="inv_1", codec="custom", type_name=None, schema_hash=None, schema=None)


async def test_what_has_no_schema_passes_if_it_has_the_right_form() -> None:
    untyped = await check(of(None), b"1")
    assert (untyped.checked, untyped.refusal) == (None, None)
    raw = Completion(awakeable_id="a", body=Resolution.of_bytes(b"1"), source="s")
    for expectation in (of(bytes), CUSTOM):
        assert await PayloadValidator(Rows(a=expectation), learn_nothing).validate([raw]) == [raw]


@pytest.mark.parametrize(
    "expectation", [of(bytes), CUSTOM, of(Parcel), of(None)], ids=["bytes", "custom", "parcel", "any"]
)
async def test_a_value_of_the_wrong_kind_is_refused_on_arrival(expectation: Expectation) -> None:
    json = expectation.codec == "json"
    wrong = Resolution.of_bytes(b"1") if json else Resolution.of_json(b"1")
    said = Completion(awakeable_id="a", body=wrong, source="s")
    (checked,) = await PayloadValidator(Rows(a=expectation), learn_nothing).validate([said])
    assert "value_base64" in (checked.refusal or "")
    assert "content-type application/" in (checked.refusal or "")


async def test_only_values_are_looked_up() -> None:
    rows = Rows(a=of(Parcel))
    said = [
        Completion(awakeable_id="a", body=Rejection(reason="no"), source="s"),
        Completion(awakeable_id="a", body=Heartbeat(), source="s"),
        Completion(awakeable_id="a", body=None, refusal="nonsense", source="s"),
    ]
    assert await PayloadValidator(rows, learn_nothing).validate(said) == said
    assert rows.asked == []


async def test_a_batch_is_one_look_up_and_what_is_remembered_is_none() -> None:
    rows = Rows(a=of(int), b=of(int))
    validator = PayloadValidator(rows, learn_nothing)
    validator.remember("c", of(int))
    said = [Completion(awakeable_id=key, body=Resolution.of_json(b"1"), source="s") for key in "abcx"]
    assert [c.checked is not None for c in await validator.validate(said)] == [True, True, True, False]
    assert rows.asked == [["a", "b", "x"]]
    await validator.validate(said)
    assert rows.asked == [["a", "b", "x"], ["x"]]


async def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "CACHED", 3)
    validator = PayloadValidator(Rows(), learn_nothing)
    for number in range(10):
        validator.remember(str(number), of(int))
    assert await validator.expectation("9") == of(int)
    assert await validator.expectation("0") is None


async def test_a_batch_larger_than_the_memory_is_checked_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settlement, "CACHED", 3)
    rows = {f"a{n}": of(int) for n in range(10)}
    said = [Completion(awakeable_id=key, body=Resolution.of_json(b'"x"'), source="s") for key in rows]
    assert all(
        completion.refusal
        for completion in await PayloadValidator(Rows(**rows), learn_nothing).validate(said)
    )


async def test_what_is_loaded_of_one_type_shares_its_schema() -> None:
    """A hundred thousand copies of it would take hundreds of megabytes."""
    schemas = [bytes(bytearray(b'{"type":"integer"}')) for _ in range(3)]
    expectations = {
        f"prom_{number}": Expectation(
            invocation_id="inv_1", codec="json", type_name=None, schema_hash="h", schema=schema
        )
        for number, schema in enumerate(schemas)
    }
    validator = PayloadValidator(Rows(**expectations), learn_nothing)
    found = [await validator.expectation(key) for key in expectations]
    assert len({id(each.schema) for each in found if each is not None}) == 1
