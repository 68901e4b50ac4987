"""K2: a dead letter's copy is the record byte for byte, and says why and from where."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from awakeables.core.deadletters import (
    CODE_HEADER,
    OMITTED_HEADER,
    DeadLetter,
    error_headers,
    relay_copy,
    without_value,
)
from awakeables.core.effects import Effect

letters = st.builds(
    DeadLetter,
    id=st.just("dlq_1x"),
    source=st.just("shop.completions:2:17"),
    topic=st.just("shop.completions"),
    partition=st.just(2),
    offset=st.just(17),
    timestamp_ms=st.just(1),
    code=st.sampled_from(["unreadable", "unknown", "invalid"]),
    reason=st.text(st.characters(exclude_categories=[])),
    at_ms=st.just(2),
    key=st.none() | st.binary(),
    value=st.none() | st.binary(),
    headers=st.lists(st.tuples(st.text(), st.none() | st.binary())).map(tuple),
)


@given(letters)
def test_the_copy_has_key_value_and_headers_byte_for_byte_and_then_why(letter: DeadLetter) -> None:
    copy = relay_copy(letter, to="shop.completions.dlq", now_ms=9)
    assert (copy.topic, copy.key, copy.value, copy.task) == (
        "shop.completions.dlq",
        letter.key,
        letter.value,
        None,
    )
    assert (copy.event_id, copy.stream, copy.created_ms) == (letter.id, letter.id, 9)
    own, why = copy.headers[: len(letter.headers)], dict(copy.headers[len(letter.headers) :])
    assert own == letter.headers
    assert why == {
        "__connect.errors.topic": b"shop.completions",
        "__connect.errors.partition": b"2",
        "__connect.errors.offset": b"17",
        "__connect.errors.class.name": letter.code.encode(),
        "__connect.errors.exception.message": letter.reason.encode("utf-8", "replace"),
        CODE_HEADER: letter.code.encode(),
    }


@given(letters)
def test_a_copy_that_is_too_large_goes_without_its_value_and_says_so(letter: DeadLetter) -> None:
    copy = relay_copy(letter, to="dlq", now_ms=9)
    shorter = without_value(copy, "2 MB are too many")
    if letter.value is None:
        assert shorter is None
        return
    assert shorter is not None
    assert (shorter.value, shorter.key, shorter.event_id) == (None, copy.key, copy.event_id)
    assert shorter.headers == (*copy.headers, (OMITTED_HEADER, b"2 MB are too many"))
    assert without_value(shorter, "still") is None


def test_only_a_dead_letter_goes_without_its_value() -> None:
    task = Effect(event_id="evt_1x", stream="inv", topic="t", key=None, value=b"x")
    assert without_value(task, "too large") is None


def test_a_reason_that_is_not_utf_8_is_made_readable() -> None:
    headers = dict(error_headers(topic="t", partition=0, offset=0, code="invalid", reason="\ud800"))
    assert headers["__connect.errors.exception.message"] == b"?"
