"""Outcomes are written so that values stay what they were, to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awakeables.core.outcomes import (
    Cancellation,
    Expiry,
    Outcome,
    Rejection,
    Resolution,
    decode_outcome,
    encode_outcome,
    publish_failed,
)
from unit.core.test_journal import outcomes


@given(outcomes)
def test_an_outcome_reads_as_it_was_written(outcome: Outcome) -> None:
    assert decode_outcome(encode_outcome(outcome)) == outcome


@pytest.mark.parametrize(
    "text", [b"18446744073709551616", b"0.1000", b"1e400", rb'"\u00e9\/"', b"null", b"-0"]
)
def test_a_json_value_is_kept_to_the_letter(text: bytes) -> None:
    outcome = decode_outcome(encode_outcome(Resolution.of_json(text)))
    assert isinstance(outcome, Resolution)
    assert outcome.is_json
    assert outcome.content == text


@given(st.binary())
def test_raw_bytes_are_kept(content: bytes) -> None:
    outcome = decode_outcome(encode_outcome(Resolution.of_bytes(content)))
    assert isinstance(outcome, Resolution)
    assert not outcome.is_json
    assert outcome.content == content


def test_the_four_ends_are_distinguished_by_one_word() -> None:
    assert encode_outcome(Resolution.of_json(b"1")) == b'{"status":"resolved","value":1}'
    assert encode_outcome(Rejection(reason="no")) == b'{"status":"rejected","reason":"no"}'
    assert encode_outcome(Expiry(deadline_ms=5)) == b'{"status":"timed-out","deadline_ms":5}'
    assert encode_outcome(Cancellation(reason="x")) == b'{"status":"cancelled","reason":"x"}'


def test_a_refused_publish_names_topic_and_reason_once_and_is_cut() -> None:
    assert publish_failed("t", "too large").reason == "publish-failed: topic 't': too large"
    assert publish_failed("t", "no topic 't'").reason == "publish-failed: no topic 't'"
    long = publish_failed("t", "why\ud800" * 100)
    assert long.reason.startswith("publish-failed: topic 't': why?why?")
    assert long.reason.endswith("…")
    assert len(long.reason) < 240
    assert decode_outcome(encode_outcome(long)) == long
