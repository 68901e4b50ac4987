"""Types are kept at hand, so that they are built once; but not for ever."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from pydantic import create_model

from awakeables.handlers import serde
from awakeables.handlers.serde import ANY, BYTES, Codec, codec_by_name, codec_for
from unit.handlers.shapes import Parcel

FEW = 5


@pytest.fixture(autouse=True)
def keeps_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serde, "MOST_KEPT", FEW)
    monkeypatch.setattr(serde, "_by_type", {})
    monkeypatch.setattr(serde, "_by_name", {})


def named(codec: Codec[Any]) -> Codec[Any] | None:
    return codec_by_name(codec.type_name or "", codec.schema_hash or "")


def declare(count: int) -> list[Any]:
    """As many types as a handler that declares one in its body makes in so many runs."""
    return [create_model(f"Model{n}", number=(int, n)) for n in range(count)]


def test_types_that_a_body_declares_are_not_kept_forever() -> None:
    types = declare(3 * FEW)
    for type_ in types:
        codec_for(type_)
    gone = [weakref.ref(type_) for type_ in types]
    del types, type_
    gc.collect()
    assert [reference() is None for reference in gone] == [True] * 2 * FEW + [False] * FEW


def test_a_type_that_is_at_hand_is_built_once_and_found_by_its_name() -> None:
    codec = codec_for(Parcel)
    for _ in range(2 * FEW):
        assert codec_for(Parcel) is codec
    assert named(codec) is codec


def test_a_type_that_was_forgotten_is_built_again_and_found_by_its_name_too() -> None:
    before = codec_for(Parcel)
    others = [int, str, float, bool, list]
    for type_ in others:
        codec_for(type_)
    assert named(before) is None
    again = codec_for(Parcel)
    assert (again.schema, again.schema_hash) == (before.schema, before.schema_hash)
    assert named(before) is again
    for type_ in others[1:]:
        codec_for(type_)
    assert codec_for(Parcel) is again
    assert named(before) is again


def test_a_value_that_is_not_a_model_is_unchanged() -> None:
    for _ in range(2):
        assert [codec_for(None), codec_for(Any), codec_for(bytes)] == [ANY, ANY, BYTES]
        for type_ in declare(FEW):
            codec_for(type_)
