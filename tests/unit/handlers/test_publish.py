"""`ctx.publish`: a record or a task, once per invocation, whatever the replays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context, Task
from awakeables.core.effects import Envelope
from awakeables.handlers.publishing import MAX_PUBLISH_BYTES
from awakeables.testing import Paused
from unit.handlers.conftest import Runs
from unit.handlers.shapes import Box, Parcel

UNSPEAKABLE = {"nan": float("nan"), "inf": [float("inf")], "object": {1, object()}, "surrogate": "\ud800"}


def test_a_record_goes_out_as_it_is_with_key_and_headers(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("notices", {"n": 1}, key="k-ä", headers={"a": "text-ä", "b": b"\x01"})
        await ctx.sleep(timedelta(days=1))

    (record,) = run(handler).published
    assert (record.topic, record.key, record.payload) == ("notices", "k-ä".encode(), {"n": 1})
    assert (record.awakeable_id, record.task) == (None, None)
    assert record.headers.pop("awakeable-event-id").startswith("evt_1")  # type: ignore[attr-defined]
    assert record.headers.pop("traceparent").startswith("00-")  # type: ignore[attr-defined]
    assert record.headers == {"a": "text-ä", "b": "\x01"}


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        (Parcel(id="p"), {"id": "p", "weight": 1}),
        (Box(width=2), {"width": 2, "label": None}),
        ([Parcel(id="p")], [{"id": "p", "weight": 1}]),
        (2**64, 2**64),
        (None, None),
        ("x", "x"),
        (b"\xff\x00", b"\xff\x00"),
    ],
    ids=str,
)
def test_a_payload_is_json_and_bytes_are_bytes(run: Runs, payload: Any, sent: Any) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("notices", payload)

    assert run(handler).published[0].payload == sent


def test_a_task_has_its_facts_in_headers_and_the_awakeable_s_id_as_key(run: Runs) -> None:
    async def handler(ctx: Context) -> int:
        awakeable = ctx.awakeable(int, timeout=timedelta(hours=1))
        ctx.publish("pack", {"order": 1}, awakeable=awakeable, task="box")
        return await awakeable

    seen: list[Task[Any]] = []

    def pack(task: Task[Any]) -> int:
        seen.append(task)
        return 5

    result = run(handler, answers={"pack": pack})
    assert result.value == 5
    (record,) = result.published
    assert record.awakeable_id is not None
    assert (record.key, record.task, record.payload) == (record.awakeable_id.encode(), "box", {"order": 1})
    assert record.headers["awakeable-id"] == record.awakeable_id
    assert record.headers["awakeable-task"] == "box"
    assert record.headers["awakeable-reply-to"] == "testing.completions"
    assert record.headers["awakeable-deadline"] == "2026-01-01T01:00:00.000Z"
    assert record.headers["content-type"] == "application/json"
    assert seen[0].event_id == record.headers["awakeable-event-id"]


def test_a_task_may_have_a_key_and_headers_of_its_own(run: Runs) -> None:
    async def handler(ctx: Context) -> Any:
        awakeable = ctx.awakeable()
        ctx.publish("pack", 1, awakeable=awakeable, key=b"customer-7", headers={"traceparent": "00-1"})
        return await awakeable

    (record,) = run(handler, answers={"pack": lambda task: 1}).published
    assert record.key == b"customer-7"
    assert record.headers["traceparent"] == "00-1"


@pytest.mark.parametrize("envelope", ["json", "none", "cloudevents", "cloudevents-binary"])
def test_a_task_is_done_and_answered_in_every_form(run: Runs, envelope: Envelope) -> None:
    async def handler(ctx: Context) -> int:
        awakeable = ctx.awakeable(int, timeout=timedelta(hours=1))
        ctx.publish("pack", {"order": 1}, awakeable=awakeable, task="box", envelope=envelope)
        return await awakeable

    seen: list[Task[Any]] = []

    def pack(task: Task[Any]) -> int:
        seen.append(task)
        return 5

    result = run(handler, answers={"pack": pack})
    assert result.value == 5
    ((task,), (record,)) = (seen, result.published)
    assert (task.payload, task.name, task.awakeable_id) == ({"order": 1}, "box", record.awakeable_id)
    assert str(task.deadline) == "2026-01-01 01:00:00+00:00"
    assert task.event_id == record.headers["awakeable-event-id"]
    assert record.headers["awakeable-reply-to"] == "testing.completions"


@pytest.mark.parametrize("envelope", ["json", "none", "cloudevents", "cloudevents-binary"])
def test_case_w1_a_worker_answers_the_handler_whatever_awakeable_its_payload_names(
    run: Runs, envelope: Envelope
) -> None:
    forged = {"awakeable_id": "prom_101kdvdna00000000000000000026n9af4", "payload": 1, "reply_to": "other"}

    async def handler(ctx: Context) -> Any:
        awakeable = ctx.awakeable()
        ctx.publish("pack", forged, awakeable=awakeable, envelope=envelope)
        return await awakeable

    result = run(handler, answers={"pack": lambda task: task.payload})
    assert result.value == forged


def test_a_binary_event_says_of_bytes_that_they_are_bytes_unless_the_handler_knows_better(
    run: Runs,
) -> None:
    async def handler(ctx: Context) -> None:
        awakeable = ctx.awakeable()
        ctx.publish("scan", b"\xff", awakeable=awakeable, envelope="cloudevents-binary")
        png = {"content-type": "image/png"}
        ctx.publish("scan", b"\xff", awakeable=awakeable, envelope="cloudevents-binary", headers=png)

    unsure, known = run(handler).published
    assert unsure.payload == b"\xff"
    assert unsure.headers["ce_source"] == "/apps/testing"
    assert unsure.headers["content-type"] == "application/octet-stream"
    assert known.headers["content-type"] == "image/png"


def test_a_bare_payload_may_be_bytes_with_the_facts_in_headers(run: Runs) -> None:
    async def handler(ctx: Context) -> int:
        awakeable = ctx.awakeable(int)
        ctx.publish("scan", b"\xff\x00", awakeable=awakeable, envelope="none")
        return await awakeable

    def scan(task: Task[bytes]) -> int:
        return len(task.payload)

    result = run(handler, answers={"scan": scan})
    assert result.value == 2
    assert result.published[0].payload == b"\xff\x00"
    assert result.published[0].awakeable_id == result.published[0].headers["awakeable-id"]


def test_what_is_published_goes_out_once_and_in_order_over_all_replays(run: Runs) -> None:
    """K3."""

    async def handler(ctx: Context) -> None:
        for number in range(5):
            ctx.publish("notices", number)
            await ctx.sleep(timedelta(seconds=10))

    assert [record.payload for record in run(handler).published] == [0, 1, 2, 3, 4]


def test_what_was_published_before_a_failure_goes_out_all_the_same_once_it_was_committed(run: Runs) -> None:
    fails = iter([True, True, False])

    async def handler(ctx: Context) -> None:
        ctx.publish("notices", "before")
        await ctx.sleep(timedelta(seconds=10))
        if next(fails):
            raise ConnectionError("down")
        ctx.publish("notices", "after")

    assert [record.payload for record in run(handler).published] == ["before", "after"]


@pytest.mark.parametrize(
    "payload", ["x" * MAX_PUBLISH_BYTES, b"x" * (MAX_PUBLISH_BYTES + 1)], ids=["json", "bytes"]
)
def test_a_payload_that_fits_no_record_is_refused_at_the_call(run: Runs, payload: Any) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("notices", payload)

    result = run(handler)
    assert result.published == []
    with pytest.raises(Paused, match=r"'notices'.* bytes, and at most 1,000,000 fit .* publish a reference"):
        _ = result.value


@pytest.mark.parametrize("envelope", ["json", "cloudevents"])
def test_bytes_in_a_json_envelope_are_refused_at_the_call(run: Runs, envelope: Envelope) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("scan", b"\xff", awakeable=ctx.awakeable(), envelope=envelope)

    with pytest.raises(Paused, match=r'bytes can\'t go into a JSON envelope; use envelope="none"'):
        _ = run(handler).value


def test_a_form_that_there_is_not_is_refused_at_the_call(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("scan", 1, awakeable=ctx.awakeable(), envelope="cloudevent")  # type: ignore[arg-type]

    with pytest.raises(Paused, match="envelope='cloudevent' is not one of json, none, cloudevents"):
        _ = run(handler).value


def test_an_event_without_an_awakeable_is_refused_at_the_call(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("notices", 1, envelope="cloudevents-binary")

    with pytest.raises(Paused, match="is for tasks: pass an awakeable"):
        _ = run(handler).value


@pytest.mark.parametrize("payload", UNSPEAKABLE.values(), ids=UNSPEAKABLE)
def test_a_payload_that_json_can_t_say_raises_at_the_call_in_replay_too(run: Runs, payload: Any) -> None:
    """J2: the handler takes the same way each time."""

    async def handler(ctx: Context) -> str:
        try:
            ctx.publish("notices", payload)
        except ValueError:
            ctx.publish("notices", "instead")
        await ctx.sleep(timedelta(seconds=10))
        return "done"

    result = run(handler)
    assert result.value == "done"
    assert [record.payload for record in result.published] == ["instead"]


@pytest.mark.parametrize(
    "name", ["awakeable-id", "Awakeable-Reply-To", "awakeable-x", "ce_type", "CE_Id", "ce-id"]
)
def test_case_w6_headers_that_say_what_a_task_is_are_refused_at_the_call(run: Runs, name: str) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("pack", 1, awakeable=ctx.awakeable(), headers={name: "x"})

    result = run(handler)
    assert result.published == []
    with pytest.raises(Paused, match=rf"'pack': header '{name.lower()}' is reserved"):
        _ = result.value


def test_case_w6_a_record_without_an_awakeable_may_be_the_handler_s_own_event(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("notices", 1, headers={"ce_type": "com.example.order", "content-type": "text/plain"})

    (record,) = run(handler).published
    assert (record.headers["ce_type"], record.headers["content-type"]) == ("com.example.order", "text/plain")


@pytest.mark.parametrize("name", ["content-type", "traceparent", "tracestate"])
def test_case_w6_a_header_that_replaces_ours_is_given_once(run: Runs, name: str) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("pack", 1, awakeable=ctx.awakeable(), headers={name: "x", name.title(): "y"})

    with pytest.raises(Paused, match=f"header '{name}' is given twice"):
        _ = run(handler).value


@pytest.mark.parametrize("envelope", ["json", "none", "cloudevents", "cloudevents-binary"])
def test_case_w6_every_name_of_ours_is_written_once(run: Runs, envelope: Envelope) -> None:
    own = {"Content-Type": "application/vnd.shop+json", "tracestate": "a=1"}

    async def handler(ctx: Context) -> None:
        ctx.publish("pack", 1, awakeable=ctx.awakeable(), envelope=envelope, headers=own)

    (record,) = run(handler).published
    names = [name.lower() for name in record.headers]
    assert sorted(names) == sorted(set(names))
    assert own.items() <= record.headers.items()
