"""IDs say when they were issued, sort by it, and find their own typing errors."""

from __future__ import annotations

import contextlib
import copy
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awakeables.core.ids import IdKind, Ids, by_issue, parse_id, parse_id_of
from awakeables.errors import MalformedId
from support.ids import new_id

KINDS: tuple[IdKind, ...] = ("prom", "inv", "evt", "dlq", "own")
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
LATEST_MS = 2**48 - 1

kinds = st.sampled_from(KINDS)
instants = st.integers(0, LATEST_MS)
entropies = st.binary(min_size=10, max_size=10)


@given(kinds, instants, entropies)
def test_ids_are_issued_in_the_form_that_is_documented(kind: IdKind, at_ms: int, entropy: bytes) -> None:
    """The other tests write them symbol by symbol."""
    issued = Ids(lambda: at_ms, lambda count: entropy * (count // len(entropy))).new(kind)
    if kind == "evt":  # it leaves room to count up
        entropy = (int.from_bytes(entropy, "big") >> 1).to_bytes(10, "big")
    assert issued == new_id(kind, at_ms=at_ms, entropy=entropy)


@given(kinds, instants, entropies)
def test_an_id_has_the_time_of_its_issue(kind: IdKind, at_ms: int, entropy: bytes) -> None:
    assert parse_id(new_id(kind, at_ms=at_ms, entropy=entropy), kind) == at_ms


@given(kinds, instants, entropies)
def test_an_id_needs_no_escaping_in_a_url_or_header(kind: IdKind, at_ms: int, entropy: bytes) -> None:
    text = new_id(kind, at_ms=at_ms, entropy=entropy)
    assert text.startswith(f"{kind}_1")
    assert len(text) == len(kind) + 2 + 33
    assert set(text.removeprefix(f"{kind}_1")) <= set(ALPHABET)


@given(instants, instants, entropies, entropies)
def test_ids_sort_by_the_time_of_their_issue(one_ms: int, other_ms: int, one: bytes, other: bytes) -> None:
    first, second = new_id("prom", at_ms=one_ms, entropy=one), new_id("prom", at_ms=other_ms, entropy=other)
    if one_ms != other_ms:
        assert (first < second) == (one_ms < other_ms)


@given(entropies, entropies)
def test_ids_of_one_millisecond_differ_by_chance_alone(one: bytes, other: bytes) -> None:
    assert (new_id("prom", at_ms=1, entropy=one) == new_id("prom", at_ms=1, entropy=other)) == (one == other)


@given(kinds, instants, entropies, st.data())
def test_every_change_of_one_character_is_found(
    kind: IdKind, at_ms: int, entropy: bytes, data: st.DataObject
) -> None:
    text = new_id(kind, at_ms=at_ms, entropy=entropy)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(exclude_categories=[]).filter(lambda c: c != text[place]))
    with pytest.raises(MalformedId):
        parse_id(text[:place] + other + text[place + 1 :], kind)


def test_every_change_of_one_character_of_an_id_is_found_exhaustively() -> None:
    text = new_id("prom", at_ms=1_767_225_600_000, entropy=bytes(range(10)))
    for place in range(len(text)):
        for other in ALPHABET:
            if other != text[place]:
                with pytest.raises(MalformedId):
                    parse_id(text[:place] + other + text[place + 1 :], "prom")


@given(kinds, instants, entropies)
def test_every_swap_of_adjacent_characters_is_found(kind: IdKind, at_ms: int, entropy: bytes) -> None:
    text = new_id(kind, at_ms=at_ms, entropy=entropy)
    for place in range(len(text) - 1):
        swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
        if swapped != text:
            with pytest.raises(MalformedId):
                parse_id(swapped, kind)


@given(instants, entropies, st.integers(0, 38))
def test_the_error_for_a_truncated_id_says_so(at_ms: int, entropy: bytes, length: int) -> None:
    text = new_id("prom", at_ms=at_ms, entropy=entropy)[:length]
    with pytest.raises(MalformedId, match=r"was it cut|begin with 'prom_1'"):
        parse_id(text, "prom")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_an_id_of_another_kind_is_named(kind: IdKind, other: IdKind) -> None:
    text = new_id(other, at_ms=1, entropy=bytes(10))
    if kind == other:
        assert parse_id(text, kind) == 1
        return
    named = {
        "prom": "an awakeable ID",
        "inv": "an invocation ID",
        "evt": "an event ID",
        "dlq": "a dead letter's ID",
        "own": "an owner ID",
    }
    with pytest.raises(MalformedId, match=f"is not {named[kind]}: .*; this is {named[other]}"):
        parse_id(text, kind)


@given(st.text(), kinds)
def test_any_other_text_is_malformed_and_is_shown_only_in_part(text: str, kind: IdKind) -> None:
    with pytest.raises(MalformedId):
        parse_id(text, kind)
    with pytest.raises(MalformedId) as caught:
        parse_id(text + "x" * 1000, kind)
    assert len(str(caught.value)) < 1000


@given(st.text(alphabet="0123456789abcdefghjkmnpqrstvwxyzIO²٣\ud800\x00", max_size=40), kinds)
def test_what_begins_like_an_id_is_one_or_is_malformed(rest: str, kind: IdKind) -> None:
    with contextlib.suppress(MalformedId):
        assert 0 <= parse_id(f"{kind}_1{rest}", kind) < 2**50


def test_the_error_for_a_mistyped_id_says_so() -> None:
    text = new_id("prom", at_ms=1, entropy=bytes(10))
    with pytest.raises(MalformedId, match="was it mistyped"):
        parse_id(text[:-1] + ("0" if text[-1] != "0" else "1"), "prom")


class Watch:
    """A clock that shows what it is told, and chance that counts in each ten bytes."""

    def __init__(self) -> None:
        self.ms = 1_000
        self.drawn = 0

    def now_ms(self) -> int:
        return self.ms

    def entropy(self, count: int) -> bytes:
        numbers = range(self.drawn, self.drawn + count // 10)
        self.drawn = numbers.stop
        return b"".join(number.to_bytes(10, "big") for number in numbers)


@given(st.lists(st.integers(0, 5_000), min_size=2, max_size=30))
def test_event_ids_sort_by_their_issue_whatever_the_clock_does(clock: list[int]) -> None:
    """K3: the outbox publishes in their order, so a clock that goes back must not reorder them."""
    watch = Watch()
    ids = Ids(watch.now_ms, watch.entropy)
    issued = []
    for ms in clock:
        watch.ms = ms
        issued.append(ids.new("evt"))
    assert all(one < other for one, other in pairwise(issued))
    assert [parse_id(text, "evt") for text in issued] == [max(clock[: n + 1]) for n in range(len(clock))]


def test_event_ids_stay_in_order_when_chance_gives_the_greatest_number() -> None:
    ids = Ids(lambda: 1, lambda count: b"\xff" * count)
    issued = [ids.new("evt") for _ in range(1000)]
    assert issued == sorted(issued)
    assert len(set(issued)) == 1000


def test_two_processes_issue_different_event_ids_in_one_millisecond() -> None:
    one, other = Ids(lambda: 1, lambda n: b"\x01" * n), Ids(lambda: 1, lambda n: b"\x7f" * n)
    assert {one.new("evt") for _ in range(100)}.isdisjoint({other.new("evt") for _ in range(100)})


def test_every_awakeable_id_is_fresh_chance_since_it_is_a_bearer_token() -> None:
    watch = Watch()
    ids = Ids(watch.now_ms, watch.entropy)
    issued = {ids.new("prom") for _ in range(1000)}
    assert issued <= {new_id("prom", at_ms=1_000, entropy=n.to_bytes(10, "big")) for n in range(watch.drawn)}
    assert len(issued) == 1000


def test_a_forked_child_issues_other_ids_than_its_parent() -> None:
    """It has a copy of the random bytes that its parent has read and not used yet."""
    parent = Ids(lambda: 1, os.urandom)
    parent.new("evt")
    child = copy.deepcopy(parent)
    child.forget_entropy()
    for kind in KINDS:
        theirs = {parent.new(kind) for _ in range(10)}
        assert theirs.isdisjoint({child.new(kind) for _ in range(10)})


@given(kinds, kinds, instants, instants, entropies)
def test_ids_of_several_kinds_sort_together_by_the_time_of_their_issue(
    one: IdKind, other: IdKind, one_ms: int, other_ms: int, entropy: bytes
) -> None:
    first, second = (new_id(k, at_ms=ms, entropy=entropy) for k, ms in ((one, one_ms), (other, other_ms)))
    if one_ms != other_ms:
        assert (by_issue(first) < by_issue(second)) == (one_ms < other_ms)


def test_an_id_may_be_of_one_of_several_kinds() -> None:
    for kind in KINDS:
        text = new_id(kind, at_ms=1, entropy=bytes(10))
        if kind in ("evt", "dlq"):
            assert parse_id_of(text, ("evt", "dlq")) == 1
            with pytest.raises(MalformedId, match="was it cut"):
                parse_id_of(text[:-1], ("evt", "dlq"))
        else:
            with pytest.raises(MalformedId, match="is not an event ID: it must begin with 'evt_1'; this is "):
                parse_id_of(text, ("evt", "dlq"))
