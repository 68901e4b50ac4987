"""How a result is written, and which results are refused."""

from __future__ import annotations

import json
from types import NoneType
from typing import Any

import pytest
from msgspec import UNSET
from pydantic import BaseModel

from awakeables.handlers.rejections import rejection
from awakeables.handlers.serde import codec_for


class Parcel(BaseModel):
    parcel: str
    grams: float = 0.5


class Reversed:
    def dumps(self, value: str) -> bytes:
        return value[::-1].encode()

    def loads(self, content: bytes) -> str:
        return content.decode()[::-1]


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        (Any, {"a": [1, None]}, b'{"a":[1,null]}'),
        (Any, Parcel(parcel="p"), b'{"parcel":"p","grams":0.5}'),
        (Any, 2**64, b"18446744073709551616"),
        (Parcel, Parcel(parcel="p"), b'{"parcel":"p","grams":0.5}'),
        (NoneType, None, b"null"),
        (Parcel, {"parcel": "p"}, b'{"parcel":"p","grams":0.5}'),
        (int, "5", b"5"),
        (list[int], [1], b"[1]"),
    ],
)
def test_a_result_is_written_as_json(type_: Any, value: Any, text: bytes) -> None:
    resolution = codec_for(type_).answer(value)
    assert resolution.is_json
    assert resolution.content == text


def test_bytes_are_sent_as_they_are() -> None:
    resolution = codec_for(bytes).answer(b"\xff\x00")
    assert not resolution.is_json
    assert resolution.content == b"\xff\x00"


def test_a_serde_writes_what_its_awakeable_will_read() -> None:
    resolution = codec_for(str, Reversed()).answer("abc")
    assert (resolution.is_json, resolution.content) == (False, b"cba")


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Any, object()),
        (Any, float("nan")),
        (Any, {"deep": [float("inf")]}),
        (Parcel, None),
        (Parcel, {"grams": 1}),
        (bytes, "text"),
        (bytes, 5),
        (NoneType, 1),
        (float, float("nan")),
        (list[float], [float("-inf")]),
        (Any, "\ud800"),
    ],
)
def test_a_result_that_is_not_of_its_type_or_no_json_is_refused(type_: Any, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec_for(type_).answer(value)


def test_a_type_that_can_not_be_written_is_refused() -> None:
    class Opaque: ...

    with pytest.raises(TypeError, match="Opaque"):
        codec_for(Opaque)


@pytest.mark.parametrize("serde", [object(), Reversed, "json"], ids=["object", "class", "text"])
def test_an_object_that_is_not_a_serde_is_refused(serde: Any) -> None:
    with pytest.raises(TypeError, match=r"is not a serde: pass an object with dumps\(value\) -> bytes"):
        codec_for(str, serde)


def test_the_error_for_a_serde_that_writes_no_bytes_says_what_it_wrote() -> None:
    with pytest.raises(TypeError, match=r"json.*dumps returned str; it must return bytes"):
        codec_for(str, json).answer("text")  # type: ignore[arg-type]


def test_the_details_of_a_rejection_can_always_be_written() -> None:
    refused = rejection("no", 409, {"sku": "x", "what": object, "nan": float("nan"), "raw": b"\xff"})
    assert isinstance(refused.details, object)
    assert b'"sku":"x"' in bytes(refused.details)  # type: ignore[arg-type]
    assert b'"nan":null' in bytes(refused.details)  # type: ignore[arg-type]


def test_a_rejection_without_details_has_none() -> None:
    assert rejection("no", 409, None).details is UNSET
