"""Traces: what counts as a `traceparent`, and what an invocation hands on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awakeables.wire.traces import Trace, known_traceparent, trace_of

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
GIVEN = f"00-{TRACE_ID}-b7ad6b7169203331-00"
SEED = "303e61cdc4bb86c3d1c427103c344c41"


def test_a_caller_s_trace_goes_on_with_its_flags_and_its_state() -> None:
    trace = trace_of({"traceparent": GIVEN, "tracestate": "a=1,b=2"}, SEED)
    assert trace == Trace(trace_id=TRACE_ID, flags="00", state="a=1,b=2")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00-ab-cd-01",
        GIVEN.upper(),
        GIVEN + "-00",
        GIVEN + "\n",
        f"{GIVEN}, {GIVEN}",
        f" {GIVEN}",
        GIVEN.replace("00-0", "ff-0", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-b7ad6b716920333²-01",
    ],
)
def test_a_wrong_traceparent_is_as_none_and_takes_the_tracestate_with_it(wrong: str) -> None:
    assert known_traceparent(wrong) is None
    assert known_traceparent(wrong.encode()) is None
    assert trace_of({"traceparent": wrong, "tracestate": "a=1"}, SEED) == Trace(trace_id=SEED)


@pytest.mark.parametrize("later", [f"01{GIVEN[2:]}", f"01{GIVEN[2:]}-more"])
def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known(later: str) -> None:
    assert known_traceparent(later) == GIVEN


def test_a_header_without_a_value_is_no_trace() -> None:
    assert known_traceparent(None) is None
    assert known_traceparent(b"\xff" + GIVEN.encode()) is None


@pytest.mark.parametrize("seed", ["", "0" * 32, "a seed", "A" * 32])
def test_a_seed_that_is_not_a_trace_id_still_gives_a_trace(seed: str) -> None:
    trace = trace_of({}, seed)
    assert trace == trace_of({}, seed)
    assert known_traceparent(trace.traceparent("evt_1")) is not None


@given(st.text(), st.text())
def test_each_name_has_its_own_span_in_the_one_trace_and_always_the_same(one: str, other: str) -> None:
    trace = trace_of({}, SEED)
    first, second = trace.traceparent(one), trace.traceparent(other)
    assert known_traceparent(first) == first
    assert (first == second) == (one == other)
    assert first.startswith(f"00-{SEED}-")
