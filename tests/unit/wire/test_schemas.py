"""schemas/ and the code say the same: valid examples go through, invalid ones don't, what we emit fits."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import jsonschema_rs
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from awakeables.core.awakeables import VERDICTS, Completion, DeadTask, Heartbeat
from awakeables.core.deadletters import UNUSABLE_TASK, DeadLetter, error_headers, relay_copy, without_value
from awakeables.core.effects import Effect, Header, TaskFacts
from awakeables.core.ids import parse_id
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.telemetry.vocabulary import LETTER_CODES, ORIGINS
from awakeables.wire.completion_events import TYPES
from awakeables.wire.completions import STATUSES, Unreadable, decode_completion, encode_completion
from awakeables.wire.dead_tasks import MOST_REASON_CHARACTERS
from awakeables.wire.tasks import UnreadableTask, decode_task, encode_effect, find_address
from awakeables.worker.deadletters import DeadLetterCode, dead_letter
from awakeables.worker.heartbeats import OverReason
from awakeables.worker.port import Incoming
from support.ids import new_id
from unit.wire.contract import (
    AN_ID,
    DECODER_ONLY,
    NAMES,
    SCHEMAS,
    damaged,
    examples,
    ids,
    json_texts,
    json_values,
    records,
    refusal,
)


def facts(headers: dict[str, str]) -> bytes:
    return json.dumps(headers).encode()


def as_object(headers: tuple[Header, ...] | list[Header]) -> dict[str, str]:
    return {name: (content or b"").decode() for name, content in headers}


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_a_schema_of_its_draft(name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema_rs.meta.validate(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_invalid_example_says_why_and_every_why_has_its_example() -> None:
    for name in NAMES:
        folder = SCHEMAS / "examples" / "invalid" / name
        records = {path.name.removesuffix(".json") for path in folder.glob("*.json")}
        reasons = {path.name.removesuffix(".why.txt") for path in folder.glob("*.why.txt")}
        assert records == reasons
        assert records, name
        assert all(path.read_text().strip() for path in folder.glob("*.why.txt"))


def _words(schema: object) -> Iterator[frozenset[str]]:
    match schema:
        case {"enum": [*words]}:
            yield frozenset(map(str, words))
        case dict():
            for inner in schema.values():
                yield from _words(inner)
        case list():
            for inner in schema:
                yield from _words(inner)


@pytest.mark.parametrize(
    ("name", "vocabularies"),
    [
        ("completion", [STATUSES]),
        ("completion-cloudevent", [TYPES]),
        ("task", []),
        ("task-cloudevent", []),
        ("dead-letter", [{*LETTER_CODES, *get_args(DeadLetterCode)} - {UNUSABLE_TASK}]),
        ("verdict", [VERDICTS, set(ORIGINS) - {"kafka"}]),
        ("revocation", [get_args(OverReason)]),
    ],
)
def test_case_w10_every_closed_vocabulary_of_a_schema_is_that_of_the_code(
    name: str, vocabularies: list[Iterable[str]]
) -> None:
    """A dead task is kept as a row; its copy is on its own topic, with the worker's own code."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    assert list(_words(schema)) == [frozenset(words) for words in vocabularies]


def test_the_readme_names_what_is_there() -> None:
    text = (SCHEMAS / "README.md").read_text()
    for name in NAMES:
        assert f"`{name}.schema.json`" in text


# ── completions ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", examples("valid", "completion"))
def test_a_valid_completion_decodes_and_encodes_to_a_valid_one(path: Path) -> None:
    record = path.read_bytes()
    assert refusal("completion", record) is None
    completion = decode_completion(record, source="test")
    assert completion.refusal is None
    again = encode_completion(completion)
    assert refusal("completion", again) is None
    assert decode_completion(again, source="test") == completion


@pytest.mark.parametrize("path", examples("invalid", "completion"))
def test_an_invalid_completion_is_refused_by_schema_and_decoder(path: Path) -> None:
    record = path.read_bytes()
    why = path.with_name(f"{path.stem}.why.txt").read_text()
    assert (refusal("completion", record) is None) == why.startswith(DECODER_ONLY)
    try:
        completion = decode_completion(record, source="test")
    except Unreadable:
        return
    assert completion.refusal
    assert completion.body is None


def test_values_of_the_examples_are_kept_to_the_letter() -> None:
    folder = SCHEMAS / "examples" / "valid" / "completion"

    def value(stem: str) -> bytes:
        body = decode_completion((folder / f"{stem}.json").read_bytes(), source="test").body
        assert isinstance(body, Resolution)
        return body.content

    assert value("numbers-to-the-letter") == b"[18446744073709551616, 0.1000, 1e308, -0, 1E+2]"
    assert value("spaces-and-escapes-to-the-letter") == rb'{ "a" : "\u00e9\/\ud83d\ude00\u0000" }'
    assert value("duplicate-keys-the-last-counts") == b"2"


rejections = st.builds(
    Rejection,
    reason=st.text(min_size=1),
    code=st.integers(),
    details=st.just(UNSET) | json_texts.map(Raw),
)
bodies = (
    json_texts.map(Resolution.of_json)
    | st.binary().map(Resolution.of_bytes)
    | rejections
    | json_texts.map(lambda text: Heartbeat(progress=Raw(text)))
    | st.builds(
        DeadTask,
        code=st.from_regex("[a-z][a-z0-9-]{0,39}", fullmatch=True),
        reason=st.text(min_size=1, max_size=MOST_REASON_CHARACTERS),
        topic=st.from_regex("[A-Za-z0-9_-]{1,249}", fullmatch=True),
        partition=st.integers(0, 2**31 - 1),
        offset=st.integers(0, 2**63 - 1),
        timestamp_ms=st.integers(0, 2**63 - 1),
        key=st.none() | st.binary(),
        value=st.none() | st.binary(),
        headers=st.lists(st.tuples(st.text(), st.none() | st.binary())).map(tuple),
    )
)
completions = st.builds(
    Completion,
    awakeable_id=ids,
    body=bodies,
    source=st.just("test"),
    event_id=st.none() | st.text(),
    worker=st.none() | st.text(),
    attempt=st.none() | st.integers(),
)


@given(completions)
def test_any_completion_is_written_so_that_it_fits_and_reads_the_same(completion: Completion) -> None:
    record = encode_completion(completion)
    assert refusal("completion", record) is None
    assert decode_completion(record, source="test") == completion


VALID = records("completion")


def _is_what_it_seems(text: bytes) -> bool:
    value = json.loads(text.decode(), parse_constant=pytest.fail)
    json.dumps(value, ensure_ascii=False).encode()
    return True


@given(st.binary() | damaged(VALID) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"awakeable_id":' + b"9" * 5000 + b"}")
@example(f'{{"awakeable_id":"{AN_ID}","status":"rejected","code":{"9" * 5000}}}'.encode())
@example(f'{{"awakeable_id":"{AN_ID}","status":"resolved","value":{"[" * 100_000}'.encode())
def test_whatever_the_bytes_the_decoder_answers_or_says_unreadable(record: bytes) -> None:
    """K2: one bad record never stops a partition."""
    try:
        completion = decode_completion(record, source="test")
    except Unreadable:
        return
    assert (completion.body is None) == (completion.refusal is not None)
    assert refusal("completion", encode_completion(completion)) is None if completion.body else True
    match completion.body:
        case Resolution(is_json=True) as resolution:
            assert _is_what_it_seems(resolution.content)
        case Rejection(details=Raw() as details):
            assert _is_what_it_seems(bytes(details))
        case Heartbeat(progress=progress):
            assert _is_what_it_seems(bytes(progress))


@pytest.mark.parametrize("field", ["reason", "worker", "event_id", "status", "unknown", "value"])
@pytest.mark.parametrize("text", [rb"\ud800", rb"\udc00x", rb"\ud800\ud800", b"\xed\xa0\x80", b"\xff"])
def test_half_a_surrogate_pair_and_bad_utf_8_are_accepted_nowhere(field: str, text: bytes) -> None:
    record = b'{"awakeable_id":"%s","status":"rejected","%s":"%s"}' % (AN_ID.encode(), field.encode(), text)
    try:
        completion = decode_completion(record, source="test")
    except Unreadable:
        return
    assert completion.refusal
    assert completion.body is None


@pytest.mark.parametrize("text", [b"1e400", b"[-1e400]", b'{"a":1e999}'])
def test_a_value_that_some_reader_could_not_decode_is_refused(text: bytes) -> None:
    """A4: before its type is looked at, which might take infinity for a float."""
    record = b'{"awakeable_id":"%s","status":"resolved","value":%s}' % (AN_ID.encode(), text)
    completion = decode_completion(record, source="test")
    assert completion.body is None
    assert completion.refusal


def test_a_record_without_a_value_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="no value"):
        decode_completion(None, source="test")


def test_a_record_that_names_its_awakeable_but_is_wrong_keeps_its_address() -> None:
    """A2: it gets its verdict in that awakeable's book, with what is known about its sender."""
    record = f'{{"awakeable_id":"{AN_ID}","status":"resolved","event_id":"e1","worker":"w","attempt":2}}'
    completion = decode_completion(record.encode(), source="t:0:1")
    assert completion == Completion(
        awakeable_id=AN_ID,
        body=None,
        source="t:0:1",
        event_id="e1",
        worker="w",
        attempt=2,
        refusal="resolved requires `value` (it may be null) or `value_base64`",
    )


def test_an_unknown_status_is_shown_only_in_part() -> None:
    record = json.dumps({"awakeable_id": AN_ID, "status": "x" * 1000}).encode()
    refusal = decode_completion(record, source="test").refusal
    assert refusal == f"status '{'x' * 79}…' is not one of resolved, rejected, heartbeat, dead-lettered"


def test_a_completion_without_a_body_can_not_be_sent() -> None:
    with pytest.raises(ValueError, match="without a body"):
        encode_completion(Completion(awakeable_id=AN_ID, body=None, source="test", refusal="no"))


# ── tasks ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", examples("valid", "task"))
def test_a_valid_task_decodes_and_encodes_to_a_valid_one(path: Path) -> None:
    record = path.read_bytes()
    assert refusal("task", record) is None
    task = decode_task(record, [])
    again = msgspec.json.encode(task)
    assert refusal("task", again) is None
    assert decode_task(again, []) == task


@pytest.mark.parametrize("path", examples("invalid", "task"))
def test_an_invalid_task_is_refused_by_schema_and_decoder(path: Path) -> None:
    record = path.read_bytes()
    why = path.with_name(f"{path.stem}.why.txt").read_text()
    assert (refusal("task", record) is None) == why.startswith(DECODER_ONLY)
    with pytest.raises(UnreadableTask):
        decode_task(record, [])


given_names = st.text(min_size=1).filter(
    lambda name: not name.lower().startswith(("awakeable-", "ce_", "ce-", "content-type"))
)
"""Names of headers that a handler may give a task beside ours."""

effects = st.builds(
    Effect,
    event_id=st.builds(lambda e: new_id("evt", at_ms=1, entropy=e), st.binary(min_size=10, max_size=10)),
    stream=st.just("inv"),
    topic=st.just("pack-requests"),
    key=st.none() | st.binary(),
    value=json_texts,
    headers=st.lists(st.tuples(given_names, st.none() | st.binary())).map(tuple),
    task=st.builds(
        TaskFacts,
        awakeable_id=ids,
        reply_to=st.just("shop.completions"),
        task=st.none() | st.text(min_size=1),
        envelope=st.sampled_from(["json", "none"]),
        deadline_ms=st.none() | st.integers(0, 253_402_300_799_999),
    ),
)


@given(effects)
def test_every_task_that_is_published_fits_and_reads_the_same_in_both_forms(effect: Effect) -> None:
    value, headers = encode_effect(effect)
    told = effect.task
    assert told is not None
    if told.envelope == "json":
        assert refusal("task", value or b"") is None
        assert ("content-type", b"application/json") in headers
    assert headers[: len(effect.headers)] == list(effect.headers)
    task = decode_task(value, headers)
    assert (task.awakeable_id, task.reply_to, task.task) == (told.awakeable_id, told.reply_to, told.task)
    assert (task.event_id, task.attempt, bytes(task.payload)) == (effect.event_id, 1, effect.value)
    assert (None if task.deadline is None else round(task.deadline.timestamp() * 1000)) == told.deadline_ms


def test_a_record_that_carries_no_awakeable_has_its_event_id_in_a_header() -> None:
    """K3: an event ID that is stable over resends."""
    effect = Effect(
        event_id="evt_1x", stream="inv_1x", topic="t", key=None, value=b"\xff", headers=(("a", None),)
    )
    assert encode_effect(effect) == (b"\xff", [("a", None), ("awakeable-event-id", b"evt_1x")])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"awakeable-id": None}, "neither a task"),
        ({"awakeable-reply-to": None}, "not a task"),
        ({"awakeable-id": b"prom_1x"}, "was it cut"),
        ({"awakeable-deadline": b"soon"}, "can't be read"),
        ({"awakeable-deadline": b"2026-11-21T12:00:00"}, "has no time zone"),
        ({"awakeable-attempt": b"two"}, "can't be read"),
        ({"awakeable-attempt": b"9" * 5000}, "can't be read"),
    ],
)
def test_a_bare_payload_with_wrong_headers_is_refused(changes: dict[str, bytes | None], problem: str) -> None:
    headers: dict[str, bytes | None] = {"awakeable-id": AN_ID.encode(), "awakeable-reply-to": b"r"}
    headers |= changes
    with pytest.raises(UnreadableTask, match=problem):
        decode_task(b"\xff", [(name, content) for name, content in headers.items() if content is not None])


def test_a_bare_payload_keeps_its_bytes_whatever_they_are() -> None:
    headers: list[Header] = [("awakeable-id", AN_ID.encode()), ("awakeable-reply-to", b"shop.completions")]
    assert bytes(decode_task(b"\xff\x00", headers).payload) == b"\xff\x00"
    assert bytes(decode_task(None, headers).payload) == b"null"


@given(st.binary(), st.lists(st.tuples(st.sampled_from(["awakeable-id", "awakeable-reply-to"]), st.binary())))
@example(b'{"awakeable_id":"\xff","reply_to":"x"}', [])
@example(b"[" * 100_000, [])
def test_whatever_the_bytes_a_task_is_read_or_unreadable(
    value: bytes, headers: list[tuple[str, bytes]]
) -> None:
    with contextlib.suppress(UnreadableTask):
        decode_task(value, headers)


@given(st.binary(), st.lists(st.tuples(st.sampled_from(["awakeable-id", "awakeable-reply-to"]), st.binary())))
@example(b"[" * 100_000, [])
@example(b'{"awakeable_id":1}', [])
def test_whatever_the_bytes_an_address_is_found_or_none(value: bytes, headers: list[Header]) -> None:
    address = find_address(value, headers)
    assert address is None or parse_id(address.awakeable_id, "prom")


# ── dead letters ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", examples("valid", "dead-letter"))
def test_headers_of_a_dead_letter_as_they_may_be_fit(path: Path) -> None:
    assert refusal("dead-letter", path.read_bytes()) is None


@pytest.mark.parametrize("path", examples("invalid", "dead-letter"))
def test_headers_of_no_dead_letter_are_refused(path: Path) -> None:
    assert refusal("dead-letter", path.read_bytes()) is not None


@pytest.mark.parametrize("code", ["unreadable", "unknown", "invalid", "unstorable", "skipped"])
def test_the_copy_of_a_dead_letter_fits(code: str) -> None:
    letter = DeadLetter(
        id="dlq_1x",
        source="shop.completions:0:17",
        topic="shop.completions",
        partition=0,
        offset=17,
        timestamp_ms=1,
        code=code,
        reason="not JSON: \ud800",
        at_ms=2,
        value=b"{",
        headers=(("traceparent", b"00-1"),),
    )
    copy = relay_copy(letter, to="shop.completions.dlq", now_ms=3)
    assert refusal("dead-letter", facts(as_object(encode_effect(copy)[1]))) is None
    shorter = without_value(copy, "1048600 bytes are too many")
    assert shorter is not None
    assert refusal("dead-letter", facts(as_object(shorter.headers))) is None


@pytest.mark.parametrize("code", get_args(DeadLetterCode))
def test_the_copy_of_a_worker_s_dead_letter_fits(code: DeadLetterCode) -> None:
    record = Incoming(topic="pack", partition=2, offset=5, key=None, value=b"x", headers=())
    assert refusal("dead-letter", facts(as_object(dead_letter(record, code, "why").headers))) is None


def test_the_headers_say_where_and_why() -> None:
    told = as_object(error_headers(topic="t", partition=1, offset=2, code="invalid", reason="no"))
    assert told == {
        "__connect.errors.topic": "t",
        "__connect.errors.partition": "1",
        "__connect.errors.offset": "2",
        "__connect.errors.class.name": "invalid",
        "__connect.errors.exception.message": "no",
        "awakeable-error-code": "invalid",
    }


def test_a_dead_letter_that_is_sent_again_has_no_header_of_ours() -> None:
    effect = Effect(
        event_id="evt_1x",
        stream="dlq_1x",
        topic="t",
        key=b"k",
        value=b"{",
        headers=(("a", b"1"),),
        kind="resend",
    )
    assert encode_effect(effect) == (b"{", [("a", b"1")])
