"""Hard case 6: a repeat is told duplicate, any other answer conflict; numbers count as written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.core.sameness import MAX_PARSED_BYTES, same_answer

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def json_of(text: str) -> Resolution:
    return Resolution.of_json(text.encode())


@given(values)
def test_white_space_escapes_and_the_order_of_keys_make_no_other_answer(value: Any) -> None:
    one = json.dumps(value, indent=3, sort_keys=True)
    other = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert same_answer(json_of(one), json_of(other))


@given(values, values)
def test_two_values_are_the_same_answer_if_they_are_the_same_value(one: Any, other: Any) -> None:
    texts = json.dumps(one, sort_keys=True), json.dumps(other, sort_keys=True)
    assert same_answer(json_of(texts[0]), json_of(texts[1])) == (texts[0] == texts[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("0.1", "0.10"),
        ("18446744073709551616", "18446744073709551617"),
        ("0", "-0"),
        ("1e2", "100"),
        ("1", "true"),
        ("0", "false"),
        ("1", '"1"'),
        ("null", "false"),
        ('{"a":null}', "{}"),
        ("[]", "{}"),
        ("[1,2]", "[2,1]"),
        ('{"a":1}', '{"a":1.0}'),
        ('""', "null"),
    ],
)
def test_what_differs_as_written_is_another_answer(one: str, other: str) -> None:
    assert not same_answer(json_of(one), json_of(other))
    assert not same_answer(json_of(other), json_of(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1,"a":2}', '{"a":2}'),
        (r'"\u00e9"', '"é"'),
        (r'"\/"', '"/"'),
        (' { "b" : 1 , "a" : [ 2 ] } ', '{"a":[2],"b":1}'),
        ("9" * 6000, "9" * 6000 + " "),
    ],
)
def test_what_every_reader_reads_the_same_is_the_same_answer(one: str, other: str) -> None:
    assert same_answer(json_of(one), json_of(other))


@pytest.mark.parametrize("length", [MAX_PARSED_BYTES, MAX_PARSED_BYTES + 1])
def test_what_is_longer_than_64_kib_is_the_same_only_byte_for_byte(length: int) -> None:
    text = f"[{'1,' * 1000}1]".ljust(length)
    assert same_answer(json_of(text), json_of(text))
    for other in (text.strip(), "\n" + text[:-1]):
        assert same_answer(json_of(text), json_of(other)) == (length <= 65_536)
        assert same_answer(json_of(other), json_of(text)) == (length <= 65_536)
    no, again = (Rejection(reason="no", details=Raw(said.encode())) for said in (text, text.strip()))
    assert same_answer(no, again) == (length <= 65_536)


def test_raw_bytes_are_the_same_only_byte_for_byte() -> None:
    assert same_answer(Resolution.of_bytes(b"{}"), Resolution.of_bytes(b"{}"))
    assert not same_answer(Resolution.of_bytes(b"{}"), Resolution.of_bytes(b"{ }"))
    assert not same_answer(Resolution.of_bytes(b"{}"), Resolution.of_json(b"{}"))


def test_a_rejection_is_the_same_by_reason_code_and_details() -> None:
    no = Rejection(reason="no", code=409, details=Raw(b'{"a":1,"b":2}'))
    assert same_answer(no, Rejection(reason="no", code=409, details=Raw(b'{ "b":2, "a":1 }')))
    assert not same_answer(no, Rejection(reason="No", code=409, details=Raw(b'{"a":1,"b":2}')))
    assert not same_answer(no, Rejection(reason="no", code=410, details=Raw(b'{"a":1,"b":2}')))
    assert not same_answer(no, Rejection(reason="no", code=409, details=Raw(b'{"a":1,"b":3}')))
    assert not same_answer(no, Rejection(reason="no", code=409))


def test_no_details_and_null_details_are_the_same() -> None:
    assert same_answer(
        Rejection(reason="no", details=UNSET), Rejection(reason="no", details=Raw(b" null ".strip()))
    )


def test_another_status_is_another_answer() -> None:
    outcomes: list[Outcome] = [
        json_of("null"),
        Rejection(reason="null"),
        Expiry(deadline_ms=1),
        Cancellation(reason="null"),
    ]
    for one in outcomes:
        for other in outcomes:
            if one is not other:
                assert not same_answer(one, other)
