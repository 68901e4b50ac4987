"""The key ring: what it takes, and what it opens."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest

from awakeables import KeyRing, PayloadCodec
from awakeables.errors import DeclarationError, KeyMissing, MissingDependency
from support.keys import key, ring

PLACE = "awakeables.outcome:prom_1"


def test_what_is_sealed_opens_again_at_its_place() -> None:
    codec: PayloadCodec = ring("2026-11")
    for content in (b"", b"a value", b'{"card":"4111"}' * 1000):
        sealed = codec.seal(content, bound_to=PLACE)
        assert content == b"" or content not in sealed
        assert codec.open(sealed, key_id="2026-11", bound_to=PLACE) == content


def test_the_same_value_is_sealed_differently_each_time() -> None:
    codec = ring("2026-11")
    assert len({codec.seal(b"yes", bound_to=PLACE) for _ in range(100)}) == 100


def test_the_last_key_seals_and_all_of_them_open() -> None:
    old, both = ring("old"), ring("old", "new")
    assert both.key_id == "new"
    sealed = old.seal(b"x", bound_to=PLACE)
    assert both.open(sealed, key_id="old", bound_to=PLACE) == b"x"
    with pytest.raises(KeyMissing, match="the key 'new' is not in the key ring"):
        old.open(both.seal(b"x", bound_to=PLACE), key_id="new", bound_to=PLACE)
    with pytest.raises(KeyMissing, match="the key 'old' is lost"):
        ring("new", lost=["old"]).open(sealed, key_id="old", bound_to=PLACE)


@pytest.mark.parametrize("change", ["place", "byte", "cut", "empty", "key"])
def test_what_was_changed_or_moved_does_not_open(change: str) -> None:
    codec = ring("old", "new")
    sealed = codec.seal(b"content", bound_to=PLACE)
    place, key_id = PLACE, "new"
    match change:
        case "place":
            place = PLACE + "0"
        case "byte":
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        case "cut":
            sealed = sealed[:-1]
        case "empty":
            sealed = b""
        case _:
            key_id = "old"
    with pytest.raises(ValueError, match="changed, moved here from elsewhere, or sealed with another key"):
        codec.open(sealed, key_id=key_id, bound_to=place)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"current": "a", "keys": {}}, "'a' is not among the keys of the ring: none"),
        ({"current": "a", "keys": {"b": key("b")}}, "'a' is not among the keys of the ring: 'b'"),
        ({"current": "a", "keys": {"a": b"short"}}, "the key 'a' must be 32 random bytes"),
        ({"current": "a", "keys": {"a": "0" * 32}}, "the key 'a' must be 32 random bytes"),
        ({"current": "", "keys": {"": key("a")}}, "has 1 to 255 bytes"),
        ({"current": "a" * 256, "keys": {"a" * 256: key("a")}}, "has 1 to 255 bytes"),
        (
            {"current": "a", "keys": {"a": key("a")}, "lost": ["a"]},
            "the key 'a' is in the ring: it is not lost",
        ),
    ],
)
def test_a_ring_that_can_t_work_is_refused(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        KeyRing(**given)


def test_its_repr_has_no_key() -> None:
    assert repr(ring("old", "new")) == "KeyRing(current='new', keys=['new', 'old'], lost=[])"


def test_the_extra_is_named_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(MissingDependency, match=r"pip install 'awakeables\[encryption\]'"):
        ring("a")
