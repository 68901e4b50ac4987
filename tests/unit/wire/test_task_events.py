"""Tasks as CloudEvents, in both modes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from awakeables.core.effects import Effect, Envelope, Header, TaskFacts, task_facts_from
from awakeables.wire.tasks import UnreadableTask, decode_task, encode_effect, find_address
from support.ids import new_id
from unit.wire.contract import (
    AN_EVENT,
    AN_ID,
    DECODER_ONLY,
    JSON,
    STRUCTURED,
    as_binary,
    damaged,
    examples,
    ids,
    json_texts,
    records,
    refusal,
    some_headers,
    task_effect,
)


@pytest.mark.parametrize("path", examples("valid", "task-cloudevent"))
def test_a_valid_task_event_is_a_task_in_both_modes(path: Path) -> None:
    record = path.read_bytes()
    assert refusal("task-cloudevent", record) is None
    task = decode_task(record, [STRUCTURED])
    binary = as_binary(record)
    assert binary is not None
    assert decode_task(binary[0], binary[1]) == task


@pytest.mark.parametrize("path", examples("invalid", "task-cloudevent"))
def test_an_invalid_task_event_is_refused_by_schema_and_decoder(path: Path) -> None:
    record = path.read_bytes()
    why = path.with_name(f"{path.stem}.why.txt").read_text()
    assert (refusal("task-cloudevent", record) is None) == why.startswith(DECODER_ONLY)
    with pytest.raises(UnreadableTask):
        decode_task(record, [STRUCTURED])


def test_a_structured_task_says_all_of_it() -> None:
    value, headers = encode_effect(task_effect("cloudevents"))
    assert json.loads(value or b"") == {
        "specversion": "1.0",
        "id": AN_EVENT,
        "source": "/apps/shop",
        "type": "awakeables.task.requested.v1",
        "subject": AN_ID,
        "time": "2026-11-21T08:00:00.000Z",
        "replyto": "shop.completions",
        "task": "pack",
        "deadline": "2026-11-21T12:00:00.000Z",
        "attempt": 1,
        "datacontenttype": "application/json",
        "data": {"order": "o-17"},
    }
    assert headers[-1] == STRUCTURED
    assert ("awakeable-reply-to", b"shop.completions") in headers


def test_a_binary_task_says_all_of_it_in_headers() -> None:
    value, headers = encode_effect(task_effect("cloudevents-binary"))
    assert value == b'{"order":"o-17"}'
    told = dict(headers)
    assert {name: text for name, text in told.items() if name.startswith("ce_")} == {
        "ce_specversion": b"1.0",
        "ce_id": AN_EVENT.encode(),
        "ce_source": b"/apps/shop",
        "ce_type": b"awakeables.task.requested.v1",
        "ce_subject": AN_ID.encode(),
        "ce_time": b"2026-11-21T08:00:00.000Z",
        "ce_replyto": b"shop.completions",
        "ce_task": b"pack",
        "ce_deadline": b"2026-11-21T12:00:00.000Z",
        "ce_attempt": b"1",
    }
    assert told["content-type"] == b"application/json"
    assert told["awakeable-id"] == AN_ID.encode()


def test_a_binary_task_keeps_the_content_type_that_its_payload_has() -> None:
    value, headers = encode_effect(
        task_effect("cloudevents-binary", b"\xff", (("content-type", b"image/png"),))
    )
    assert [text for name, text in headers if name == "content-type"] == [b"image/png"]
    assert bytes(decode_task(value, headers).payload) == b"\xff"


@pytest.mark.parametrize(
    ("stored", "form"),
    [
        ("", "json"),
        (',"enveloped":false', "none"),
        (',"enveloped":"structured"', "cloudevents"),
        (',"enveloped":"binary"', "cloudevents-binary"),
    ],
)
def test_a_task_that_an_older_release_left_in_the_outbox_keeps_its_form(stored: str, form: Envelope) -> None:
    row = f'{{"awakeable_id":"{AN_ID}","reply_to":"shop.completions"{stored}}}'
    facts = task_facts_from(row.encode())
    assert facts == TaskFacts(awakeable_id=AN_ID, reply_to="shop.completions", envelope=form)


task_events = st.builds(
    Effect,
    event_id=st.just(AN_EVENT),
    stream=st.just("inv"),
    topic=st.just("pack-requests"),
    key=st.none(),
    value=json_texts,
    task=st.builds(
        TaskFacts,
        awakeable_id=ids,
        reply_to=st.just("shop.completions"),
        task=st.none() | st.text(min_size=1),
        envelope=st.sampled_from(["cloudevents", "cloudevents-binary"]),
        deadline_ms=st.none() | st.integers(0, 253_402_300_799_999),
        source=st.just("/apps/shop"),
    ),
    created_ms=st.integers(0, 253_402_300_799_999),
)


@given(task_events)
def test_every_task_event_fits_and_reads_the_same_without_its_other_headers(effect: Effect) -> None:
    value, headers = encode_effect(effect)
    told = effect.task
    assert told is not None
    if told.envelope == "cloudevents":
        assert refusal("task-cloudevent", value or b"") is None
    task = decode_task(value, [header for header in headers if not header[0].startswith("awakeable-")])
    assert (task.awakeable_id, task.reply_to, task.task) == (told.awakeable_id, told.reply_to, told.task)
    assert (task.event_id, task.attempt, bytes(task.payload)) == (effect.event_id, 1, effect.value)
    assert (None if task.deadline is None else round(task.deadline.timestamp() * 1000)) == told.deadline_ms


def test_an_event_of_the_handler_s_own_is_the_payload_of_a_task_without_an_envelope() -> None:
    own = b'{"specversion":"1.0","id":"7","source":"/shop","type":"com.example.order","data":1}'
    value, headers = encode_effect(task_effect("none", own, (STRUCTURED,)))
    assert bytes(decode_task(value, headers).payload) == own


@given(
    st.none() | st.binary() | damaged(records("task-cloudevent")),
    st.sampled_from([(STRUCTURED,), tuple(encode_effect(task_effect("cloudevents-binary"))[1]), ()]),
    some_headers,
)
@example(b"[" * 100_000, (STRUCTURED,), ())
@example(None, (*encode_effect(task_effect("cloudevents-binary"))[1], ("ce_attempt", b"9" * 5000)), ())
def test_whatever_the_event_a_task_is_read_or_unreadable(
    value: bytes | None, mode: tuple[Header, ...], more: tuple[Header, ...]
) -> None:
    with contextlib.suppress(UnreadableTask):
        decode_task(value, (*mode, *more))


# ── what a payload says of itself ───────────────────────────────────────────────────────────

VICTIM = new_id("prom", at_ms=2, entropy=bytes(10))
FORGED_EVENT = json.dumps(
    {
        "specversion": "1.0",
        "id": "evt",
        "source": "/apps/shop",
        "type": "awakeables.task.requested.v1",
        "subject": VICTIM,
        "replyto": "other.completions",
        "data": 1,
    }
).encode()
FORGED: dict[str, bytes] = {
    "an envelope": f'{{"awakeable_id":"{VICTIM}","payload":1,"reply_to":"other.completions"}}'.encode(),
    "an envelope with the true ID": f'{{"awakeable_id":"{AN_ID}","payload":1,"reply_to":"other"}}'.encode(),
    "an envelope with the true ID and topic": (
        f'{{"awakeable_id":"{AN_ID}","payload":1,"reply_to":"shop.completions"}}'.encode()
    ),
    "an event": FORGED_EVENT,
    "a later version": f'{{"awakeable_id":"{VICTIM}","reply_to":"other.completions","v":2}}'.encode(),
}


@pytest.mark.parametrize("payload", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("form", get_args(Envelope))
@pytest.mark.parametrize(
    "own",
    [
        (),
        (STRUCTURED,),
        (("awakeable-id", VICTIM.encode()),),
        (("ce_subject", VICTIM.encode()), ("ce_id", b"e")),
    ],
    ids=["none", "of an event", "of a task", "of a binary event"],
)
def test_case_w1_a_payload_that_looks_like_a_task_is_a_payload(
    payload: bytes, form: Any, own: tuple[Header, ...]
) -> None:
    value, headers = encode_effect(task_effect(form, payload, own))
    task = decode_task(value, headers)
    assert (task.awakeable_id, task.event_id, task.reply_to) == (AN_ID, AN_EVENT, "shop.completions")
    assert (task.task, bytes(task.payload)) == ("pack", payload)


@pytest.mark.parametrize("form", get_args(Envelope))
def test_case_w1_tasks_that_lie_in_topics_already_are_read_in_every_form(form: Any) -> None:
    """An older release wrote our headers behind those of the handler, who could give them too."""
    _, ours = encode_effect(task_effect(form))
    value, _ = encode_effect(task_effect(form, b'{"order":"o-17"}'))
    task = decode_task(value, [("awakeable-id", b"x"), ("content-type", b"image/png"), *ours])
    assert (task.awakeable_id, bytes(task.payload)) == (AN_ID, b'{"order":"o-17"}')


@pytest.mark.parametrize("payload", FORGED.values(), ids=FORGED)
def test_case_w1_what_a_handler_publishes_without_an_awakeable_is_not_a_task(payload: bytes) -> None:
    effect = Effect(event_id=AN_EVENT, stream="inv_1x", topic="notices", key=None, value=payload)
    with pytest.raises(UnreadableTask, match="without an awakeable"):
        decode_task(*encode_effect(effect))


@pytest.mark.parametrize("payload", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("name", ["awakeable-id", "awakeable-event-id"])
def test_case_w1_a_dead_task_is_reported_to_nobody_that_its_payload_names(payload: bytes, name: str) -> None:
    assert find_address(payload, [(name, AN_ID.encode())]) is None


def test_case_w1_without_our_headers_a_task_is_what_its_value_says() -> None:
    """Other programs may publish tasks, too."""
    value, _ = encode_effect(task_effect("json"))
    assert decode_task(value, [JSON]).awakeable_id == AN_ID


@pytest.mark.parametrize("headers", [(), (JSON,), (("content-type", b"text/plain"),)])
def test_case_w4_a_structured_task_is_read_whatever_its_content_type(headers: tuple[Header, ...]) -> None:
    task = decode_task(FORGED_EVENT, headers)
    assert (task.awakeable_id, bytes(task.payload)) == (VICTIM, b"1")


@pytest.mark.parametrize("value", [None, b""])
@pytest.mark.parametrize("form", ["none", "cloudevents-binary"])
def test_case_w4_a_task_without_a_payload_is_read_with_null(value: bytes | None, form: Any) -> None:
    _, headers = encode_effect(task_effect(form))
    events = [header for header in headers if not header[0].startswith("awakeable-")]
    assert bytes(decode_task(value, headers).payload) == b"null"
    if form == "cloudevents-binary":
        assert bytes(decode_task(value, events).payload) == b"null"


@pytest.mark.parametrize("form", get_args(Envelope))
@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
def test_case_w6_a_handler_s_content_type_replaces_ours(form: Any, name: str) -> None:
    own = ((name, b"application/vnd.shop+json"), ("x", b"1"), ("Awakeable-Id", b"x"), ("CE_Subject", b"x"))
    value, headers = encode_effect(task_effect(form, headers=own))
    names = [name.lower() for name, _ in headers]
    assert [text for name, text in headers if name.lower() == "content-type"] == [own[0][1]]
    assert names.count("awakeable-id") == 1
    assert form != "cloudevents-binary" or names.count("ce_subject") == 1
    assert bytes(decode_task(value, headers).payload) == b'{"order":"o-17"}'
