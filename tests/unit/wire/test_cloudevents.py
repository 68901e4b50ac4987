"""Completions as CloudEvents: both modes, and what only looks like one."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from awakeables.core.awakeables import Completion, Heartbeat
from awakeables.core.effects import Header
from awakeables.core.outcomes import NO_REASON, Rejection, Resolution
from awakeables.wire.completions import Unreadable, decode_completion, encode_completion
from awakeables.wire.tasks import encode_effect
from support.ids import new_id
from unit.wire.contract import (
    A_TRACE,
    AN_ID,
    BYTES,
    DECODER_ONLY,
    JSON,
    SCHEMAS,
    STRUCTURED,
    as_binary,
    damaged,
    examples,
    json_texts,
    json_values,
    records,
    refusal,
    some_headers,
    task_effect,
)


def in_binary(status: str = "resolved", **attributes: str | None) -> tuple[Header, ...]:
    """The headers of a binary event; None leaves an attribute out."""
    told: dict[str, str | None] = {
        "specversion": "1.0",
        "id": "1",
        "source": "/workers/packer",
        "type": f"awakeables.completion.{status}.v1",
        "subject": AN_ID,
    }
    return tuple((f"ce_{n}", v.encode()) for n, v in (told | attributes).items() if v is not None)


def structured(status: str = "resolved", **attributes: Any) -> bytes:
    told = {
        "specversion": "1.0",
        "id": "1",
        "source": "/workers/packer",
        "type": f"awakeables.completion.{status}.v1",
        "subject": AN_ID,
    }
    return json.dumps(told | attributes).encode()


def decode(
    value: bytes | None, headers: tuple[Header, ...] = (STRUCTURED,), key: bytes | None = None
) -> Completion:
    return decode_completion(value, headers=headers, key=key, source="test")


# ── completions ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", examples("valid", "completion-cloudevent"))
def test_a_valid_event_is_a_completion_in_both_modes_and_a_valid_plain_one(path: Path) -> None:
    record = path.read_bytes()
    assert refusal("completion-cloudevent", record) is None
    completion = decode(record)
    assert completion.refusal is None
    plain = encode_completion(completion)
    assert refusal("completion", plain) is None
    assert decode_completion(plain, source="test") == completion
    if (binary := as_binary(record)) is not None:
        assert decode(*binary) == completion


@pytest.mark.parametrize("path", examples("invalid", "completion-cloudevent"))
def test_an_invalid_event_is_refused_by_schema_and_decoder(path: Path) -> None:
    record = path.read_bytes()
    why = path.with_name(f"{path.stem}.why.txt").read_text()
    assert (refusal("completion-cloudevent", record) is None) == why.startswith(DECODER_ONLY)
    try:
        completion = decode(record)
    except Unreadable:
        return
    assert completion.refusal
    assert completion.body is None


def test_values_of_the_examples_are_kept_to_the_letter_in_both_modes() -> None:
    text = b"[18446744073709551616, 0.1000, 1e308, -0, 1E+2]"
    folder = SCHEMAS / "examples" / "valid" / "completion-cloudevent"
    body = Resolution.of_json(text)
    assert decode((folder / "numbers-to-the-letter.json").read_bytes()).body == body
    assert decode(text, (*in_binary(), JSON)).body == body


def test_an_event_is_decoded_with_all_its_fields() -> None:
    headers = (*in_binary(worker="packer-1", attempt="2"), JSON, ("traceparent", A_TRACE))
    assert decode(b'{"parcel": "p-9"}', headers) == Completion(
        awakeable_id=AN_ID,
        body=Resolution.of_json(b'{"parcel": "p-9"}'),
        source="test",
        event_id="/workers/packer 1",
        worker="packer-1",
        attempt=2,
        trace=A_TRACE.decode(),
    )


@pytest.mark.parametrize(
    ("value", "headers", "body"),
    [
        (b"1", (), Resolution.of_json(b"1")),
        (b"1", (("content-type", b"Application/JSON; charset=utf-8"),), Resolution.of_json(b"1")),
        (b"1", (("content-type", b"application/vnd.shop.parcel+json"),), Resolution.of_json(b"1")),
        (b"\xff\x00", (BYTES,), Resolution.of_bytes(b"\xff\x00")),
        (b"", (BYTES,), Resolution.of_bytes(b"")),
        (b"hello", (("content-type", b"text/plain"),), Resolution.of_bytes(b"hello")),
        (None, (), Resolution.of_json(b"null")),
        (None, (BYTES,), Resolution.of_json(b"null")),
    ],
)
def test_binary_data_is_json_or_bytes_by_its_content_type(
    value: bytes | None, headers: tuple[Header, ...], body: Resolution
) -> None:
    assert decode(value, (*in_binary(), *headers)).body == body


@pytest.mark.parametrize(
    "content_type", [b"application/cloudevents+json", b"APPLICATION/CloudEvents+JSON;charset=utf-8"]
)
def test_the_content_type_of_a_structured_event_is_read_in_any_case(content_type: bytes) -> None:
    completion = decode(structured(data=1), (("content-type", content_type),))
    assert completion.body == Resolution.of_json(b"1")


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (None, Rejection(reason=NO_REASON)),
        (b"null", Rejection(reason=NO_REASON)),
        (b"{}", Rejection(reason=NO_REASON)),
        (b'{"reason":"no","code":409}', Rejection(reason="no", code=409)),
        (
            b'{"reason":"no","details":{"n":2.50}}',
            Rejection(reason="no", details=Raw(b'{"n":2.50}')),
        ),
    ],
)
def test_a_rejection_has_its_reason_in_its_data(value: bytes | None, body: Rejection) -> None:
    assert decode(value, in_binary("rejected")).body == body


@pytest.mark.parametrize(
    ("value", "progress"), [(None, b"null"), (b"{}", b"null"), (b'{"progress":0.40}', b"0.40")]
)
def test_a_heartbeat_has_its_progress_in_its_data(value: bytes | None, progress: bytes) -> None:
    body = decode(value, in_binary("heartbeat")).body
    assert isinstance(body, Heartbeat)
    assert bytes(body.progress) == progress


@pytest.mark.parametrize(
    ("value", "headers", "problem"),
    [
        (b"1", in_binary(specversion=None), "no specversion"),
        (b"1", in_binary(specversion="0.3"), "specversion '0.3' is not supported"),
        (b"1", in_binary(id=None), "no id"),
        (b"1", in_binary(id=""), "no id"),
        (b"1", in_binary(source=None), "no source"),
        (b"1", in_binary(attempt="two"), "attempt 'two' is not a number"),
        (b"NaN", in_binary(), "not JSON"),
        (b"\xff", in_binary(), "not JSON"),
        (b'{"a":"\\ud800"}', in_binary(), "not JSON"),
        (b"[" * 400 + b"]" * 400, in_binary(), "not JSON"),
        (b"out of stock", (*in_binary("rejected"), BYTES), "with the content-type application/json"),
        (b'"out of stock"', in_binary("rejected"), "the event's data"),
        (b"0.4", in_binary("heartbeat"), "the event's data"),
        (structured(specversion="2.0"), (STRUCTURED,), "specversion '2.0'"),
        (structured(data=1, data_base64="MQ=="), (STRUCTURED,), "send one"),
        (structured(data_base64="?"), (STRUCTURED,), "is not base64"),
        (structured(id=[]), (STRUCTURED,), "the event's id"),
    ],
)
def test_an_event_that_names_its_awakeable_but_is_wrong_keeps_its_address(
    value: bytes, headers: tuple[Header, ...], problem: str
) -> None:
    """A2: it gets its verdict in that awakeable's book."""
    completion = decode(value, headers)
    assert (completion.awakeable_id, completion.body) == (AN_ID, None)
    assert problem in (completion.refusal or "")


@pytest.mark.parametrize(
    ("value", "headers", "problem"),
    [
        (b"1", in_binary(subject=None), "no subject"),
        (b"1", in_binary(subject="prom_1x"), "was it cut"),
        (b"1", in_binary(subject="inv_1x"), "not an awakeable ID"),
        (structured(subject=None), (STRUCTURED,), "no subject"),
        (None, (STRUCTURED,), "no value"),
        (b"{", (STRUCTURED,), "not a structured event"),
        (b"[" * 100_000, (STRUCTURED,), "not a structured event"),
        (b"[]", (("content-type", b"application/cloudevents-batch+json"),), "one per record"),
        (b"x", (("content-type", b"application/cloudevents+avro"),), "is not supported"),
        (b"1", in_binary(subject=None, type="com.example.done"), "events of the type 'com.example.done'"),
    ],
)
def test_an_event_without_a_known_subject_is_unreadable_unless_its_key_names_the_awakeable(
    value: bytes | None, headers: tuple[Header, ...], problem: str
) -> None:
    with pytest.raises(Unreadable, match=problem):
        decode(value, headers, b"a key")
    completion = decode(value, headers, AN_ID.encode())
    assert (completion.awakeable_id, completion.body) == (AN_ID, None)
    assert problem in (completion.refusal or "")


@pytest.mark.parametrize(
    "headers",
    [(), (JSON,), (BYTES,), (("content-type", b"text/plain"),), (("ce_type", b"com.example.done"),)],
    ids=str,
)
@pytest.mark.parametrize("body", [{"data": {"parcel": "p-9"}}, {"data_base64": "/w=="}, {"data": None}, {}])
def test_case_w4_a_structured_event_is_taken_whatever_its_content_type(
    headers: tuple[Header, ...], body: dict[str, Any]
) -> None:
    """Python's SDK 1 writes the content type of the data, or none."""
    assert decode(structured(**body), headers) == decode(structured(**body))
    wrong = decode(structured(id=None, **body), headers)
    assert (wrong.awakeable_id, wrong.refusal) == (AN_ID, "the event has no id")


@pytest.mark.parametrize(
    "value",
    [
        structured().replace(b'"specversion"', b'"specVersion"'),
        structured(type="com.example.done", data=1),
        structured(type="Awakeables.Completion.Resolved.v1", data=1),
        b'"specversion"',
        b"[" + structured(data=1) + b"]",
    ],
)
@pytest.mark.parametrize("headers", [(), (JSON,)])
def test_case_w4_a_record_that_is_not_our_event_is_unreadable(
    value: bytes, headers: tuple[Header, ...]
) -> None:
    with pytest.raises(Unreadable):
        decode(value, headers)


@pytest.mark.parametrize("status", ["resolved", "rejected", "heartbeat"])
@pytest.mark.parametrize("headers", [(), (JSON,)])
def test_case_w4_an_empty_value_means_no_data_like_an_absent_one(
    status: str, headers: tuple[Header, ...]
) -> None:
    """Python's SDK 2 writes an event without data as an empty value."""
    empty = decode(b"", (*in_binary(status), *headers))
    assert empty.refusal is None
    assert empty == decode(None, (*in_binary(status), *headers))


def test_case_w4_an_answer_whose_value_is_an_event_is_not_read_as_that_event() -> None:
    other = new_id("prom", at_ms=1, entropy=bytes(10))
    within = structured(subject=other, data=1)
    assert decode(within, in_binary()) == Completion(
        awakeable_id=AN_ID,
        body=Resolution.of_json(within),
        source="test",
        event_id="/workers/packer 1",
    )
    plain = b'{"awakeable_id":"%s","status":"resolved","value":%s}' % (AN_ID.encode(), within)
    assert decode(plain, ()).awakeable_id == AN_ID


@pytest.mark.parametrize("value", [None, b"", b"no completion", b"[]", b'{"status":"resolved"}'])
def test_a_plain_record_that_says_nothing_of_its_awakeable_is_addressed_by_its_key(
    value: bytes | None,
) -> None:
    with pytest.raises(Unreadable):
        decode(value, ())
    completion = decode(value, (), AN_ID.encode())
    assert (completion.awakeable_id, completion.body) == (AN_ID, None)
    assert completion.refusal


def test_what_the_record_says_of_its_awakeable_counts_more_than_its_key() -> None:
    other = new_id("prom", at_ms=1, entropy=bytes(10))
    assert decode(b"1", in_binary(), other.encode()).awakeable_id == AN_ID


PLAIN = f'{{"awakeable_id":"{AN_ID}","status":"resolved","value":1}}'.encode()


@pytest.mark.parametrize("mode", ["cloudevents", "cloudevents-binary"])
def test_a_plain_answer_with_the_headers_of_its_task_is_read_as_the_plain_one(mode: Any) -> None:
    _, headers = encode_effect(task_effect(mode))
    assert decode(PLAIN, tuple(headers)) == Completion(
        awakeable_id=AN_ID, body=Resolution.of_json(b"1"), source="test"
    )


@pytest.mark.parametrize("mode", ["cloudevents", "cloudevents-binary"])
def test_a_task_that_is_sent_back_unchanged_gets_invalid_in_its_awakeable_s_history(mode: Any) -> None:
    value, headers = encode_effect(task_effect(mode))
    completion = decode(value, tuple(headers))
    assert (completion.awakeable_id, completion.body) == (AN_ID, None)
    assert "'awakeables.task.requested.v1'" in (completion.refusal or "")


def test_of_a_repeated_header_the_last_counts_and_one_without_a_value_is_absent() -> None:
    headers = (("ce_subject", b"prom_1x"), *in_binary(), ("ce_worker", None), ("content-type", None))
    completion = decode(b"1", headers)
    assert (completion.awakeable_id, completion.worker) == (AN_ID, None)
    assert completion.body == Resolution.of_json(b"1")
    assert decode(PLAIN, (*in_binary("rejected"), ("ce_type", None))).body == Resolution.of_json(b"1")


def test_headers_that_are_not_utf_8_stop_nothing() -> None:
    headers = (*in_binary(source=None), ("ce_source", b"\xff"), ("ce_worker", b"\xfe"), ("x", b"\xff"))
    completion = decode(b"1", headers)
    assert (completion.event_id, completion.worker) == ("\ufffd 1", "\ufffd")
    with pytest.raises(Unreadable):
        decode(b"1", (*in_binary(), ("ce_subject", b"\xff")))


MANY = b"[" + b"[]," * 1_000_000 + b"1]"


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b'{"awakeable_id":"%s","status":"resolved","value":%s}' % (AN_ID.encode(), MANY), ()),
        (b'{"awakeable_id":"%s","status":"rejected","details":%s}' % (AN_ID.encode(), MANY), ()),
        (MANY, in_binary()),
        (structured(data="@").replace(b'"@"', MANY), (STRUCTURED,)),
        (b"{" + b'"a":1,' * 1_000_000 + structured(data=1)[1:], (STRUCTURED,)),
    ],
    ids=["value", "details", "binary", "structured", "members"],
)
def test_case_w11_json_of_a_million_values_is_refused_before_it_is_built(
    value: bytes, headers: tuple[Header, ...]
) -> None:
    tracemalloc.start()
    try:
        completion = decode(value, headers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (completion.awakeable_id, completion.body) == (AN_ID, None)
    assert "more than 1,000,000 values" in (completion.refusal or "")
    assert peak < 4 * len(value)


def test_a_large_event_is_read_whole() -> None:
    value = b'"' + b"x" * 10_000_000 + b'"'
    assert decode(value, in_binary()).body == Resolution.of_json(value)
    completion = decode(structured(data="@").replace(b'"@"', value))
    assert completion.body == Resolution.of_json(value)


modes = st.sampled_from(
    [(STRUCTURED,), *(in_binary(status) for status in ("resolved", "rejected", "heartbeat")), ()]
)
values = (
    st.none()
    | st.binary()
    | damaged(records("completion-cloudevent"))
    | damaged(records("completion"))
    | json_texts
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from(["specversion", "type", "subject", "id", "source", "data", "data_base64", "attempt"]),
        json_values,
    ).map(lambda value: structured(**value))
)


@given(values, modes, some_headers, st.none() | st.binary() | st.just(AN_ID.encode()))
@example(b"[" * 100_000, in_binary(), (), None)
@example(b'{"data":' * 100_000, (STRUCTURED,), (), None)
@example(structured(data="@").replace(b'"@"', b"9" * 5000), (STRUCTURED,), (), None)
@example(structured(attempt="@").replace(b'"@"', b"9" * 5000), (STRUCTURED,), (), None)
@example(b'{"code":' + b"9" * 5000 + b"}", in_binary("rejected"), (), None)
@example(b"1", in_binary(attempt="9" * 5000), (), None)
@example(b"1", in_binary(attempt="²"), (), None)
@example(b'{"\xff":1}', (STRUCTURED,), (), None)
@example(structured().replace(b"{", b'{"\\ud800": 1, ', 1), (STRUCTURED,), (), None)
def test_whatever_the_record_it_is_a_completion_or_unreadable(
    value: bytes | None, mode: tuple[Header, ...], more: tuple[Header, ...], key: bytes | None
) -> None:
    """K2: one bad record never stops a partition."""
    try:
        completion = decode(value, (*mode, *more), key)
    except Unreadable:
        return
    assert (completion.body is None) == (completion.refusal is not None)
    (completion.event_id or "").encode()
    (completion.worker or "").encode()
    if completion.body is not None:
        assert refusal("completion", encode_completion(completion)) is None


@given(
    json_texts.map(Resolution.of_json)
    | st.builds(Rejection, reason=st.text(min_size=1), code=st.integers(), details=json_texts.map(Raw))
    | json_texts.map(lambda text: Heartbeat(progress=Raw(text)))
)
def test_any_answer_reads_the_same_plain_binary_and_structured(body: Any) -> None:
    status, data = _as_data(body)
    plain = encode_completion(Completion(awakeable_id=AN_ID, body=body, source="test"))
    expected = decode_completion(plain, source="test").body
    assert decode(data, in_binary(status)).body == expected
    assert decode(structured(status, data="@").replace(b'"@"', data)).body == expected


def _as_data(body: Resolution | Rejection | Heartbeat) -> tuple[str, bytes]:
    match body:
        case Resolution():
            return "resolved", body.content
        case Rejection():
            reason = json.dumps(body.reason).encode()
            details = b"null" if body.details is UNSET else bytes(body.details)
            return "rejected", b'{"reason":%s,"code":%d,"details":%s}' % (reason, body.code, details)
        case Heartbeat():
            return "heartbeat", b'{"progress":%s}' % bytes(body.progress)


# ── the document ────────────────────────────────────────────────────────────────────────────


def test_the_examples_of_the_document_are_read_as_it_says() -> None:
    text = (SCHEMAS.parent / "docs" / "workers.md").read_text().replace("prom_1…", AN_ID)
    section = text.partition("## As CloudEvents")[2]
    event = section.partition("```json\n")[2].partition("\n```")[0]
    head, _, data = section.partition("```\nce_")[2].partition("\n```")[0].partition("\n\n")
    pairs = [line.split(": ", 1) for line in f"ce_{head}".splitlines()]
    headers = tuple((name, content.encode()) for name, content in pairs)

    resolved, rejected = decode(event.encode()), decode(data.encode(), headers)
    assert refusal("completion-cloudevent", event.encode()) is None
    assert resolved.body == Resolution.of_json(b'{"parcel": "p-9"}')
    assert rejected.body == Rejection(reason="out of stock", code=409)
    assert resolved.event_id == rejected.event_id == "/workers/packer 1"
