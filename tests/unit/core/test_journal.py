"""The journal's format 1: what is written reads the same, and unknown kinds are refused."""

from __future__ import annotations

import json
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from awakeables.core import journal
from awakeables.core.journal import (
    AttachRequested,
    AwakeableCreated,
    BranchInterrupted,
    CallOffRequested,
    CallRefused,
    CallRequested,
    CancellationRaised,
    ClockRead,
    Entry,
    Input,
    OutcomeDelivered,
    ProgressRead,
    PromiseCreated,
    PromisePeeked,
    PublishRequested,
    RunAttemptFailed,
    RunEnded,
    RunRequested,
    SendRequested,
    SettleRequested,
    SleepRequested,
    StateCleared,
    StateNamesRead,
    StateRead,
    StateSet,
    TimeoutRequested,
    VersionChosen,
    decode_chunks,
    encode_chunk,
)
from awakeables.core.outcomes import Cancellation, Expiry, Rejection, Resolution

texts = st.text()
numbers = st.integers(0, 2**53)
json_texts = st.sampled_from(
    [b"null", b"18446744073709551616", b"0.1000", b'{"a":[1,"\\u00e9"]}']
) | st.builds(lambda value: json.dumps(value).encode(), st.lists(st.text() | st.integers() | st.booleans()))
outcomes = st.one_of(
    json_texts.map(Resolution.of_json),
    st.binary().map(Resolution.of_bytes),
    st.builds(Rejection, reason=texts, code=st.integers(), details=st.just(UNSET) | json_texts.map(Raw)),
    st.builds(Expiry, deadline_ms=numbers),
    st.builds(Cancellation, reason=texts),
)
inputs = st.builds(
    Input,
    service=texts,
    handler=texts,
    seed=texts,
    at_ms=numbers,
    key=st.none() | texts,
    value=json_texts.map(Raw),
    headers=st.dictionaries(texts, texts),
    caller=st.none() | texts,
    depth=numbers,
    callers=st.lists(texts, max_size=3).map(tuple),
    restart_of=st.none() | texts,
    kept=numbers,
) | st.builds(Input, service=texts, handler=texts, seed=texts, at_ms=numbers, value_base64=st.binary())
entries: st.SearchStrategy[Entry] = st.one_of(
    inputs,
    st.builds(AwakeableCreated, id=texts, timeout_ms=st.none() | numbers),
    st.builds(PublishRequested, topic=texts, of=st.none() | numbers, task=st.none() | texts),
    st.builds(RunRequested, name=texts),
    st.builds(SleepRequested, until_ms=numbers),
    st.builds(SettleRequested, id=texts, status=texts),
    st.builds(
        CallRequested, id=texts, wait=texts, service=texts, handler=texts, idempotency_key=st.none() | texts
    ),
    st.builds(
        SendRequested,
        id=texts,
        service=texts,
        handler=texts,
        idempotency_key=st.none() | texts,
        delay_ms=st.none() | numbers,
        key=st.none() | texts,
    ),
    st.builds(CallRefused, service=texts, handler=texts, reason=texts, code=numbers),
    st.builds(AttachRequested, id=texts, wait=texts),
    st.builds(PromiseCreated, id=texts, name=texts),
    st.builds(PromisePeeked, name=texts),
    st.builds(ProgressRead, of=numbers),
    st.builds(TimeoutRequested, until_ms=numbers),
    st.builds(CallOffRequested, of=st.none() | numbers, id=st.none() | texts, dropped=st.booleans()),
    st.builds(StateRead, name=texts),
    st.builds(StateNamesRead),
    st.builds(StateSet, name=texts, value=st.just(Raw(b"0.1000"))),
    st.builds(StateSet, name=texts, value_base64=st.binary()),
    st.builds(StateCleared, name=st.none() | texts),
    st.builds(RunEnded, of=numbers, outcome=outcomes),
    st.builds(VersionChosen, name=texts, version=numbers),
    st.builds(ClockRead, at_ms=numbers),
    st.builds(
        RunAttemptFailed, of=numbers, attempt=numbers, began_ms=numbers, error=texts, retry_at_ms=numbers
    ),
    st.builds(OutcomeDelivered, of=numbers, outcome=outcomes),
    st.builds(CancellationRaised, reason=texts),
    st.builds(BranchInterrupted, branch=st.none() | st.integers(1, 9)),
)


@given(st.lists(st.lists(entries, max_size=4), max_size=5))
def test_a_journal_reads_as_it_was_written_chunk_by_chunk(chunks: list[list[Entry]]) -> None:
    written = [encode_chunk(chunk) for chunk in chunks]
    assert decode_chunks(written) == [entry for chunk in chunks for entry in chunk]
    assert [encode_chunk(decode_chunks([chunk])) for chunk in written] == written


def test_the_strategies_know_every_kind_of_entry() -> None:
    kinds = {kind.__name__ for kind in get_args(journal.Entry)}
    here = {cls.__name__ for cls in (Input, AwakeableCreated, PublishRequested, RunRequested, SleepRequested)}
    assert kinds == here | {
        cls.__name__
        for cls in (
            SettleRequested,
            CallRequested,
            SendRequested,
            CallRefused,
            AttachRequested,
            PromiseCreated,
            ProgressRead,
            PromisePeeked,
            TimeoutRequested,
            CallOffRequested,
            StateRead,
            StateNamesRead,
            StateSet,
            StateCleared,
            RunEnded,
            VersionChosen,
            ClockRead,
            RunAttemptFailed,
            OutcomeDelivered,
            CancellationRaised,
            BranchInterrupted,
        )
    }


def test_a_chunk_is_a_json_array_with_short_tags() -> None:
    chunk = encode_chunk(
        [RunRequested(name="a"), OutcomeDelivered(of=1, outcome=Resolution.of_json(b"0.1000"))]
    )
    assert (
        chunk
        == b'[{"k":"run","name":"a"},{"k":"outcome","of":1,"outcome":{"status":"resolved","value":0.1000}}]'
    )


def test_an_entry_of_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(msgspec.ValidationError, match="'telepathy'"):
        decode_chunks([b'[{"k":"telepathy"}]'])


def test_a_field_that_a_newer_release_has_added_is_ignored() -> None:
    assert decode_chunks([b'[{"k":"run","name":"a","colour":"blue"}]']) == [RunRequested(name="a")]


@pytest.mark.parametrize("chunk", [b"", b"{}", b"[{}]", b'[{"k":"run"}]', b"[", b"null"])
def test_a_damaged_chunk_is_refused(chunk: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_chunks([chunk])
