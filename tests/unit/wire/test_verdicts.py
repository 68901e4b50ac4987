"""The verdict record and its schema say the same."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from awakeables.core.awakeables import VERDICTS, Verdict, abridged
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.wire.verdicts import encode_verdict
from unit.wire.contract import AN_ID, examples, ids, json_texts, refusal

texts = st.text(st.characters(codec="utf-8"))
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    json_texts.map(lambda text: Resolution(value=Raw(text))),
    st.builds(Resolution.of_bytes, st.binary()),
    st.builds(Rejection, reason=texts, code=st.integers(0, 999), details=json_texts.map(Raw)),
    st.builds(Expiry, deadline_ms=st.integers(0, 2**40)),
    st.builds(Cancellation, reason=texts),
)
offsets = st.integers(0, 2**40)
topics = st.from_regex(r"[a-z.]{1,20}", fullmatch=True)
sources = st.one_of(
    st.builds("kafka:{}:{}:{}@{}".format, topics, offsets, offsets, offsets),
    st.builds("kafka:{}:{}:{}".format, topics, offsets, offsets),
    st.just("http:evt_1x"),
    st.just("handler:inv_1x:3"),
)


@pytest.mark.parametrize("path", examples("valid", "verdict"))
def test_verdicts_as_they_may_be_fit(path: Path) -> None:
    assert refusal("verdict", path.read_bytes()) is None


@pytest.mark.parametrize("path", examples("invalid", "verdict"))
def test_a_record_that_is_not_a_verdict_is_refused(path: Path) -> None:
    assert refusal("verdict", path.read_bytes()) is not None


@given(
    st.builds(
        Verdict,
        kind=st.sampled_from(VERDICTS),
        awakeable_id=ids,
        source=sources,
        at_ms=st.integers(0, 2**40),
        event_id=st.none() | texts,
        reason=st.none() | texts,
        outcome=st.none() | outcomes,
    )
)
def test_whatever_is_emitted_fits(verdict: Verdict) -> None:
    assert refusal("verdict", encode_verdict(abridged(verdict))) is None


def test_a_value_is_published_to_the_letter_and_a_source_in_its_parts() -> None:
    verdict = Verdict(
        kind="accepted",
        awakeable_id="prom_1x",
        source="kafka:a.b:3:17",
        at_ms=1_767_225_600_123,
        outcome=Resolution(value=Raw(b"[18446744073709551616,0.1000]")),
    )
    text = encode_verdict(verdict)
    assert b'"value":[18446744073709551616,0.1000]' in text
    told = msgspec.json.decode(text)
    assert told["source"] == {"kind": "kafka", "topic": "a.b", "partition": 3, "offset": 17}
    assert told["at"] == "2026-01-01T00:00:00.123Z"


@pytest.mark.parametrize(
    "outcome",
    [
        Resolution.of_json(b'"' + b"x" * 1_048_300 + b'"'),
        Resolution.of_bytes(b"x" * 1_000_000),
        Rejection(reason="\x00" * 500_000, code=409),
        Rejection(reason="no", details=Raw(b'"' + b"x" * 1_000_000 + b'"')),
        Rejection(reason="x" * 60_000),
    ],
    ids=["value", "bytes", "reason", "details", "whole"],
)
def test_case_w8_a_verdict_over_a_large_completion_fits_its_topic(outcome: Resolution | Rejection) -> None:
    verdict = Verdict(
        kind="accepted",
        awakeable_id=AN_ID,
        source=f"kafka:{'t' * 249}:3:17",
        at_ms=1,
        event_id="\x00" * 500_000,
        reason="\x00" * 500_000,
        outcome=outcome,
    )
    text = encode_verdict(abridged(verdict))
    assert len(text) < 80_000
    assert refusal("verdict", text) is None
    told = msgspec.json.decode(text)["outcome"]
    assert told["status"] == ("resolved" if isinstance(outcome, Resolution) else "rejected")
    assert told.get("omitted_bytes", 0) > 64 * 1024 or told["reason"] == "x" * 60_000
