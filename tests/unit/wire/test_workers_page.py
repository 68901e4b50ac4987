"""docs/workers.md shows the records that the service writes, and completions that it reads."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from awakeables.core.effects import Effect, Envelope, TaskFacts
from awakeables.core.outcomes import NO_REASON, Rejection, Resolution
from awakeables.core.sameness import same_answer
from awakeables.wire.completions import Unreadable, decode_completion
from awakeables.wire.tasks import UnreadableTask, decode_task, encode_effect
from support.ids import new_id

PAGE = (Path(__file__).parents[3] / "docs/workers.md").read_text()
AT_MS = 1_795_600_800_000
PROM = new_id("prom", at_ms=AT_MS, entropy=bytes(10))
EVENT = new_id("evt", at_ms=AT_MS, entropy=bytes(10))
OTHER = new_id("prom", at_ms=AT_MS, entropy=bytes(9) + b"\1")

FORMS: dict[str, Envelope] = {
    '"json"': "json",
    '"none"': "none",
    '"cloudevents"': "cloudevents",
    '"cloudevents-binary"': "cloudevents-binary",
}


def task(form: Envelope) -> Effect:
    facts = TaskFacts(
        awakeable_id=PROM,
        reply_to="shop.completions",
        task="pack",
        envelope=form,
        deadline_ms=AT_MS + 4 * 3_600_000,
        source="/apps/shop",
    )
    return Effect(
        event_id=EVENT,
        stream="inv_1",
        topic="pack-requests",
        key=PROM.encode(),
        value=b'{"order":"o-17"}',
        task=facts,
        created_ms=AT_MS,
    )


def printed(effect: Effect) -> str:
    """As the format does that the page gives to kcat."""
    value, headers = encode_effect(effect)
    named = ",".join(f"{name}={(content or b'').decode()}" for name, content in headers)
    key, text = (effect.key or b"").decode(), (value or b"").decode()
    return f"key      {key}\nheaders  {named}\nvalue    {text}\n"


@pytest.mark.parametrize(("name", "form"), FORMS.items(), ids=str)
def test_case_w13_the_page_shows_whole_tasks_as_they_are_written(name: str, form: Envelope) -> None:
    block = f"`envelope={name}`:\n\n```text\n{printed(task(form))}```\n"
    assert block in PAGE, f"it should be:\n{block}"


def test_case_w13_every_completion_of_the_page_is_one() -> None:
    texts = re.findall(r'^\{"awakeable_id": "prom_.*"status": .*\}$', PAGE, re.MULTILINE)
    bodies = [decode_completion(text.encode(), source="page").body for text in texts]
    assert {type(body).__name__ for body in bodies} == {"Resolution", "Rejection", "Heartbeat"}
    events = re.findall(r'^\{"specversion": .*"awakeables\.completion.*\}$', PAGE, re.MULTILINE)
    assert events
    for event in events:
        assert decode_completion(event.encode(), source="page").body is not None


def headers_of(form: Envelope) -> list[tuple[str, bytes | None]]:
    return encode_effect(task(form))[1]


ENVELOPE = {"awakeable_id": PROM, "event_id": EVENT, "reply_to": "shop.completions", "payload": 1}


@pytest.mark.parametrize(
    ("value", "headers", "awakeable", "payload"),
    [
        pytest.param(ENVELOPE, headers_of("none"), PROM, b"1", id="1"),
        pytest.param(*encode_effect(task("cloudevents")), PROM, b'{"order":"o-17"}', id="2"),
        pytest.param(
            ENVELOPE | {"awakeable_id": OTHER}, headers_of("none"), PROM, None, id="3 another awakeable"
        ),
        pytest.param(ENVELOPE | {"reply_to": "x"}, headers_of("none"), PROM, None, id="3 another topic"),
        pytest.param(ENVELOPE, [("awakeable-event-id", b"evt_1")], None, None, id="4"),
        pytest.param(
            {"order": "o-17"},
            [pair for pair in headers_of("cloudevents-binary") if not pair[0].startswith("awakeable-")],
            PROM,
            None,
            id="5",
        ),
        pytest.param(encode_effect(task("cloudevents"))[0], [], PROM, b'{"order":"o-17"}', id="6"),
        pytest.param(ENVELOPE, [], PROM, b"1", id="7"),
        pytest.param({"order": "o-17"}, [], None, None, id="8"),
        pytest.param(None, [], None, None, id="8 a tombstone"),
    ],
)
def test_case_w13_the_table_of_forms_is_what_a_worker_of_ours_goes_by(
    value: object, headers: list[tuple[str, bytes | None]], awakeable: str | None, payload: bytes | None
) -> None:
    """By the rows of the page; a payload of None is the whole value."""
    text = value if isinstance(value, bytes) or value is None else msgspec.json.encode(value)
    if awakeable is None:
        with pytest.raises(UnreadableTask):
            decode_task(text, headers)
        return
    read = decode_task(text, headers)
    assert (read.awakeable_id, bytes(read.payload)) == (awakeable, text if payload is None else payload)


def test_case_w13_the_answers_on_sameness_are_true() -> None:
    def same(one: str, other: str) -> bool:
        return same_answer(Resolution.of_json(one.encode()), Resolution.of_json(other.encode()))

    assert same('{"a": 1, "b": 2}', '{"b":2,"a":1}')
    assert same('"\\u00e4"', '"ä"')
    assert not same("1", "1.0")
    assert not same("100", "1e2")
    assert not same("[1, 2]", "[2, 1]")
    long = f'"{"x" * 65_536}"'
    assert same(long, long)
    assert not same(f" {long}", long)


def test_case_w13_the_table_of_null_and_empty_is_true() -> None:
    headers = headers_of("none")
    assert {bytes(decode_task(value, headers).payload) for value in (None, b"", b"null")} == {b"null"}
    bare = {name: value for name, value in ENVELOPE.items() if name != "payload"}
    assert bytes(decode_task(msgspec.json.encode(bare), headers).payload) == b"null"

    def body(**fields: object) -> object:
        text = msgspec.json.encode({"awakeable_id": PROM} | fields)
        return decode_completion(text, source="page").body

    for nothing in (None, b""):
        with pytest.raises(Unreadable):
            decode_completion(nothing, source="page")
        assert decode_completion(nothing, source="page", key=PROM.encode()).refusal is not None
    resolved = body(status="resolved", value=None)
    assert isinstance(resolved, Resolution)
    assert resolved.content == b"null"
    assert body(status="resolved") is None
    assert body(status="resolved", value_base64="") == Resolution.of_bytes(b"")
    for said in ({}, {"reason": None, "code": None}, {"reason": ""}):
        rejected = body(status="rejected", **said)
        assert isinstance(rejected, Rejection)
        assert (rejected.reason, rejected.code) == (NO_REASON, 500)
