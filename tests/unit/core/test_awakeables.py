"""An awakeable's transitions: every state against everything that can be said to it (A1, A2, A4)."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from awakeables.core.awakeables import (
    KEPT_AT_EACH_END,
    STATES,
    VERDICTS,
    AwakeableRow,
    AwakeableState,
    Completion,
    Heartbeat,
    LastHeartbeat,
    Verdict,
    VerdictEntry,
    VerdictHistory,
    cancel,
    expire,
    needs_check,
    settle,
    verdict_without_row,
)
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution, encode_outcome
from awakeables.core.sources import partition_sources
from awakeables.core.texts import MAX_CHARACTERS

NOW_MS = 1_000_000
YES, NO = Resolution.of_json(b'{"n":1}'), Rejection(reason="no", code=409)
OUTCOMES: dict[AwakeableState, Outcome | None] = {
    "pending": None,
    "resolved": YES,
    "rejected": NO,
    "timed-out": Expiry(deadline_ms=5),
    "cancelled": Cancellation(reason="its invocation ended"),
}
SAID: dict[str, Completion] = {
    "the same answer": Completion(awakeable_id="a", body=Resolution.of_json(b'{ "n": 1 }'), source="2"),
    "another value": Completion(awakeable_id="a", body=Resolution.of_json(b'{"n":2}'), source="2"),
    "the same no": Completion(awakeable_id="a", body=NO, source="2"),
    "another no": Completion(awakeable_id="a", body=Rejection(reason="NO", code=409), source="2"),
    "a heartbeat": Completion(awakeable_id="a", body=Heartbeat(progress=Raw(b"0.5")), source="2", worker="w"),
    "nonsense": Completion(awakeable_id="a", body=None, source="2", refusal="status is missing"),
    "a misfit": Completion(awakeable_id="a", body=YES, source="2", refusal="n: too small"),
    "bytes": Completion(awakeable_id="a", body=Resolution.of_bytes(b"x"), source="2"),
}
KIND: dict[AwakeableState, dict[str, str | None]] = {
    "pending": {
        "the same answer": "accepted",
        "another value": "accepted",
        "the same no": "accepted",
        "another no": "accepted",
        "a heartbeat": None,
        "nonsense": "invalid",
        "a misfit": "invalid",
        "bytes": "invalid",
    },
    "resolved": {
        "the same answer": "duplicate",
        "another value": "conflict",
        "the same no": "conflict",
        "another no": "conflict",
        "a heartbeat": None,
        "nonsense": "invalid",
        "a misfit": "duplicate",
        "bytes": "conflict",
    },
    "rejected": {
        "the same answer": "conflict",
        "another value": "conflict",
        "the same no": "duplicate",
        "another no": "conflict",
        "a heartbeat": None,
        "nonsense": "invalid",
        "a misfit": "conflict",
        "bytes": "conflict",
    },
    "timed-out": {**dict.fromkeys(SAID, "late"), "nonsense": "invalid"},
    "cancelled": {**dict.fromkeys(SAID, "late"), "nonsense": "invalid"},
}


def row(state: AwakeableState = "pending", **fields: Any) -> AwakeableRow:
    settled: dict[str, Any] = {} if state == "pending" else {"settled_ms": 9, "settled_by": "1"}
    outcome = OUTCOMES[state]
    outcome_json = None if outcome is None else encode_outcome(outcome)
    return AwakeableRow(
        id="a", invocation_id="i", created_ms=1, state=state, outcome_json=outcome_json, **(settled | fields)
    )


def told(awakeable: AwakeableRow, completion: Completion, *, horizon_ms: int = 0) -> Any:
    return settle(awakeable, completion, now_ms=NOW_MS, horizon_ms=horizon_ms)


@pytest.mark.parametrize(("state", "said"), list(product(STATES, SAID)))
def test_what_is_said_to_an_awakeable_in_a_state_gets_its_verdict(state: AwakeableState, said: str) -> None:
    """A2: every completion gets a verdict, and nobody is told success for what was discarded."""
    before = row(state)
    result = told(before, SAID[said])
    kind = KIND[state][said]
    assert (result.verdict.kind if result.verdict else None) == kind
    assert result.settled == (kind == "accepted")
    if kind is None:
        assert result.awakeable.heartbeat == LastHeartbeat(progress=Raw(b"0.5"), at_ms=NOW_MS, worker="w")
        assert result.awakeable.verdicts == before.verdicts
        return
    assert result.awakeable.verdicts.counts == {kind: 1}
    assert result.verdict.outcome == result.awakeable.outcome
    if kind == "accepted":
        assert result.awakeable.outcome == SAID[said].body
        assert (result.awakeable.settled_ms, result.awakeable.settled_by) == (NOW_MS, "2")
    else:
        assert (result.awakeable.state, result.awakeable.outcome) == (before.state, before.outcome)
        assert (result.awakeable.settled_ms, result.awakeable.settled_by) == (
            before.settled_ms,
            before.settled_by,
        )


def test_the_table_above_is_complete() -> None:
    assert set(KIND) == set(STATES)
    assert all(set(verdicts) == set(SAID) for verdicts in KIND.values())
    used = {kind for verdicts in KIND.values() for kind in verdicts.values() if kind}
    assert used | {"unknown"} == set(VERDICTS)


@pytest.mark.parametrize("said", ["the same answer", "the same no"])
def test_the_record_that_settled_it_gets_accepted_again_and_is_counted_once(said: str) -> None:
    """A lost acknowledgement, a replay: the same source tells the same thing."""
    once = told(row(), SAID[said])
    again = told(once.awakeable, SAID[said])
    assert again.verdict.kind == "accepted"
    assert again.awakeable == once.awakeable
    assert not again.settled


def from_kafka(body: Resolution | Rejection, *, offset: int, at_ms: int) -> Completion:
    return Completion(awakeable_id="a", body=body, source=partition_sources("t", 0)(offset, at_ms))


def test_case_r4_a_record_of_a_recreated_topic_is_another_source() -> None:
    settled = told(row(), from_kafka(YES, offset=3, at_ms=1_000)).awakeable
    assert told(settled, from_kafka(YES, offset=3, at_ms=1_000)).verdict.kind == "accepted"
    assert told(settled, from_kafka(NO, offset=3, at_ms=2_000)).verdict.kind == "conflict"
    assert told(settled, from_kafka(NO, offset=4, at_ms=1_000)).verdict.kind == "conflict"


def test_case_r4_a_row_that_an_earlier_release_has_settled_knows_its_record_again() -> None:
    """Its source has no timestamp."""
    settled = replace(told(row(), from_kafka(YES, offset=3, at_ms=1)).awakeable, settled_by="kafka:t:0:3")
    assert told(settled, from_kafka(YES, offset=3, at_ms=1)).verdict.kind == "accepted"
    assert told(settled, from_kafka(NO, offset=33, at_ms=1)).verdict.kind == "conflict"


def test_the_same_event_id_with_another_answer_is_a_conflict_all_the_same() -> None:
    """Hard case 6."""
    first = Completion(awakeable_id="a", body=YES, source="1", event_id="e")
    second = Completion(awakeable_id="a", body=NO, source="2", event_id="e")
    assert told(told(row(), first).awakeable, second).verdict.kind == "conflict"


completions = st.lists(
    st.tuples(st.sampled_from(sorted(SAID)), st.integers(0, 5), st.integers(0, 40)), max_size=40
)


@given(completions, st.none() | st.integers(0, 40))
def test_an_awakeable_settles_once_whatever_comes_in_whatever_order(
    said: list[tuple[str, int, int]], deadline_ms: int | None
) -> None:
    """A1: the first outcome stands; nothing that comes later changes state, outcome or source."""
    awakeable = row(deadline_ms=deadline_ms)
    settled: AwakeableRow | None = None
    accepted: set[str] = set()
    for name, source, horizon_ms in said:
        completion = Completion(
            awakeable_id="a",
            body=SAID[name].body,
            refusal=SAID[name].refusal,
            source=str(source),
        )
        result = settle(awakeable, completion, now_ms=NOW_MS, horizon_ms=horizon_ms)
        awakeable = result.awakeable
        if result.verdict is not None and result.verdict.kind == "accepted":
            accepted.add(completion.source)
        if settled is None and awakeable.state != "pending":
            assert result.settled
            settled = awakeable
        elif settled is not None:
            assert not result.settled
            assert (awakeable.state, awakeable.outcome) == (settled.state, settled.outcome)
            assert awakeable.settled_by == settled.settled_by
    assert len(accepted) <= 1
    assert (awakeable.state in ("resolved", "rejected")) == bool(accepted)


# ── deadlines ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("horizon_ms", "state"), [(99, "resolved"), (100, "timed-out"), (101, "timed-out")])
def test_a_deadline_at_or_before_the_horizon_wins_over_the_answer(
    horizon_ms: int, state: AwakeableState
) -> None:
    """Hard case 5: settlement and sweeper decide by the same rule."""
    result = told(row(deadline_ms=100), SAID["the same answer"], horizon_ms=horizon_ms)
    assert result.awakeable.state == state
    assert result.settled
    assert result.verdict.kind == ("accepted" if state == "resolved" else "late")
    swept = expire(row(deadline_ms=100), now_ms=NOW_MS, horizon_ms=horizon_ms)
    assert (swept is not None) == (state == "timed-out")


@pytest.mark.parametrize("state", ["resolved", "rejected"])
def test_case_w7_a_heartbeat_after_the_answer_is_kept_and_is_not_late(state: AwakeableState) -> None:
    before = row(state)
    result = told(before, SAID["a heartbeat"])
    assert (result.verdict, result.settled) == (None, False)
    assert result.awakeable == replace(before, heartbeat_json=result.awakeable.heartbeat_json)
    assert result.awakeable.heartbeat == LastHeartbeat(progress=Raw(b"0.5"), at_ms=NOW_MS, worker="w")


@pytest.mark.parametrize("state", ["timed-out", "cancelled"])
def test_case_w7_a_heartbeat_for_an_awakeable_that_nobody_awaits_is_late(state: AwakeableState) -> None:
    verdict = told(row(state), SAID["a heartbeat"]).verdict
    assert (verdict.kind, verdict.reason) == ("late", f"the awakeable is {state}")


def test_a_heartbeat_does_not_keep_an_awakeable_alive_past_its_deadline() -> None:
    result = told(row(deadline_ms=100), SAID["a heartbeat"], horizon_ms=100)
    assert (result.awakeable.state, result.verdict.kind) == ("timed-out", "late")


@pytest.mark.parametrize("state", STATES)
def test_only_a_pending_awakeable_times_out(state: AwakeableState) -> None:
    expired = expire(row(state, deadline_ms=100), now_ms=NOW_MS, horizon_ms=200)
    if state != "pending":
        assert expired is None
        return
    assert expired is not None
    assert (expired.state, expired.outcome, expired.settled_ms) == (
        "timed-out",
        Expiry(deadline_ms=100),
        NOW_MS,
    )


def test_an_awakeable_without_a_deadline_never_times_out() -> None:
    assert expire(row(), now_ms=NOW_MS, horizon_ms=2**60) is None


@pytest.mark.parametrize("state", STATES)
def test_only_a_pending_awakeable_is_cancelled(state: AwakeableState) -> None:
    """Hard case 4."""
    cancelled = cancel(row(state), now_ms=NOW_MS, reason="its invocation ended")
    if state != "pending":
        assert cancelled is None
        return
    assert cancelled is not None
    assert (cancelled.state, cancelled.outcome) == ("cancelled", Cancellation(reason="its invocation ended"))


# ── the edge ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("codec", "body", "kind"),
    [
        ("json", Resolution.of_json(b"1"), "accepted"),
        ("json", Resolution.of_bytes(b"1"), "invalid"),
        ("bytes", Resolution.of_bytes(b"\xff"), "accepted"),
        ("bytes", Resolution.of_json(b"1"), "invalid"),
        ("custom", Resolution.of_bytes(b"\xff"), "accepted"),
        ("custom", Resolution.of_json(b"1"), "invalid"),
        ("bytes", NO, "accepted"),
    ],
)
def test_a_value_of_the_wrong_form_is_refused_and_the_awakeable_stays_pending(
    codec: Any, body: Any, kind: str
) -> None:
    """A4."""
    result = told(row(codec=codec), Completion(awakeable_id="a", body=body, source="1"))
    assert result.verdict.kind == kind
    assert (result.awakeable.state == "pending") == (kind == "invalid")
    if kind == "invalid":
        assert "value_base64" in (result.verdict.reason or "")


@pytest.mark.parametrize("state", STATES)
def test_a_value_needs_its_check_only_while_the_awakeable_is_pending(state: AwakeableState) -> None:
    """Hard case 7."""
    assert needs_check(row(state, schema_hash="h"), SAID["another value"]) == (state == "pending")


def test_a_value_that_was_checked_against_this_schema_needs_no_other_check() -> None:
    checked = Completion(awakeable_id="a", body=YES, source="1", checked="h")
    assert not needs_check(row(schema_hash="h"), checked)
    assert needs_check(row(schema_hash="other"), checked)
    assert not needs_check(row(schema_hash="h"), SAID["the same no"])
    assert not needs_check(row(schema_hash="h"), SAID["a misfit"])
    assert not needs_check(row(), SAID["another value"])


# ── IDs without a row ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("age_ms", "kind"), [(0, "unknown"), (500, "unknown"), (501, "late"), (-10, "unknown")]
)
def test_an_id_without_a_row_is_unknown_until_it_may_have_been_purged(age_ms: int, kind: str) -> None:
    """Hard case 8."""
    verdict = verdict_without_row(
        SAID["the same answer"], issued_ms=NOW_MS - age_ms, now_ms=NOW_MS, retention_ms=500
    )
    assert verdict.kind == kind
    assert verdict.outcome is None
    assert verdict.reason


# ── the book ────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.sampled_from(VERDICTS), max_size=60))
def test_the_verdict_history_keeps_the_first_and_the_last_ten_and_counts_all(kinds: list[Any]) -> None:
    """Hard case 8: the books stay bounded."""
    book = VerdictHistory()
    for number, kind in enumerate(kinds):
        book = book.add(Verdict(kind=kind, awakeable_id="a", source=str(number), at_ms=number))
    entries = [VerdictEntry(kind=kind, source=str(n), at_ms=n) for n, kind in enumerate(kinds)]
    assert book.first == tuple(entries[:KEPT_AT_EACH_END])
    assert book.last == tuple(entries[KEPT_AT_EACH_END:][-KEPT_AT_EACH_END:])
    assert sum(book.counts.values()) == len(kinds)
    assert all(book.counts.get(kind, 0) == kinds.count(kind) for kind in VERDICTS)


def test_the_verdict_history_cuts_what_is_long_and_the_verdict_keeps_it_whole() -> None:
    """Hard case 8."""
    long, short = "é" * 900_000, "é" * MAX_CHARACTERS
    result = told(
        row(),
        Completion(awakeable_id="a", body=None, source="1", event_id=long, refusal=long + "!"),
    )
    assert (result.verdict.event_id, result.verdict.reason) == (long, long + "!")
    [entry] = result.awakeable.verdicts.first
    assert entry.event_id == entry.reason == "é" * (MAX_CHARACTERS - 1) + "…"
    result = told(
        row(),
        Completion(awakeable_id="a", body=None, source="1", event_id=short, refusal=short),
    )
    [entry] = result.awakeable.verdicts.first
    assert (entry.event_id, entry.reason) == (short, short)
