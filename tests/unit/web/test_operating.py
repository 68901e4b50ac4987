"""What operators do over HTTP: cancel, kill, send dead letters and refused records again, skip."""

from __future__ import annotations

import pytest

from awakeables.core.effects import TaskFacts
from awakeables.core.ids import IdKind
from awakeables.core.rows import PositionRow
from awakeables.engine.readerstate import ReaderState, StuckBatch
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.testing.bench import until
from support.ids import new_id
from unit.web.harness import Web
from unit.web.test_completing import problem

TOPIC = "shop.completions"


async def test_a_waiting_invocation_is_cancelled_and_says_so(web: Web) -> None:
    invocation_id = await web.begin("wait")
    await until(lambda: web.store.tables.awakeables)
    response = await web.client.post(f"/invocations/{invocation_id}/cancel")
    assert response.status_code == 202
    assert response.json()["cancelled"] is not None
    await until(lambda: web.store.tables.invocations[invocation_id].status == "completed")
    shown = (await web.client.get(f"/invocations/{invocation_id}")).json()
    assert (shown["ended"], shown["result"]["status"]) == ("cancelled", "cancelled")
    assert shown["journal"][-1]["text"] == "cancellation: the invocation was cancelled"
    failed = problem(await web.client.get(f"/invocations/{invocation_id}/output"), 409, "handler-failed")
    assert failed["reason"] == "the invocation was cancelled"
    again = await web.client.post(f"/invocations/{invocation_id}/cancel")
    assert "has ended" in problem(again, 409, "not-possible")["detail"]


async def test_a_waiting_invocation_is_killed_and_every_caller_gets_that_result(web: Web) -> None:
    invocation_id = await web.begin("wait")
    await until(lambda: web.store.tables.awakeables)
    for _ in range(2):
        response = await web.client.post(f"/invocations/{invocation_id}/kill")
        assert response.status_code == 200
        assert (response.json()["status"], response.json()["ended"]) == ("completed", "cancelled")
    failed = problem(await web.client.get(f"/invocations/{invocation_id}/output"), 409, "handler-failed")
    assert failed["reason"] == "the invocation was killed"
    other = await web.begin("greet")
    await until(lambda: web.store.tables.invocations[other].status == "completed")
    again = await web.client.post(f"/invocations/{other}/kill")
    assert "nothing to kill" in problem(again, 409, "not-possible")["detail"]


async def test_what_is_not_there_can_t_be_cancelled_or_sent_again(web: Web) -> None:
    inv = new_id("inv", at_ms=1, entropy=bytes(10))
    dlq = new_id("dlq", at_ms=1, entropy=bytes(10))
    evt = new_id("evt", at_ms=1, entropy=bytes(10))
    problem(await web.client.post(f"/invocations/{inv}/cancel"), 404, "not-found")
    problem(await web.client.post("/invocations/inv_1x/cancel"), 400, "malformed-id")
    problem(await web.client.post(f"/invocations/{inv}/kill"), 404, "not-found")
    problem(await web.client.post("/invocations/inv_1x/kill"), 400, "malformed-id")
    problem(await web.client.post(f"/dead-letters/{dlq}/resend"), 404, "not-found")
    problem(await web.client.post(f"/dead-letters/{inv}/resend"), 400, "malformed-id")
    problem(await web.client.post(f"/outbox/{dlq}/resend"), 404, "not-found")
    problem(await web.client.post(f"/outbox/{evt}/resend"), 404, "not-found")
    problem(await web.client.post(f"/outbox/{inv}/resend"), 400, "malformed-id")


async def test_a_dead_letter_goes_out_again_and_is_counted(web: Web) -> None:
    letter_id = web.add_dead_letter(source=f"{TOPIC}:0:1", offset=1, value=b"{", headers=(("h", b"1"),))
    response = await web.client.post(f"/dead-letters/{letter_id}/resend")
    assert response.status_code == 202
    told = response.json()
    assert (told["id"], told["topic"]) == (letter_id, TOPIC)
    await until(lambda: told["event_id"] in [effect.event_id for effect in web.published])
    [effect] = [effect for effect in web.published if effect.event_id == told["event_id"]]
    assert (effect.topic, effect.value, effect.headers) == (TOPIC, b"{", (("h", b"1"),))
    assert (await web.client.get(f"/dead-letters/{letter_id}")).json()["resent"] == 1


async def test_one_whose_bytes_are_not_here_is_refused_with_where_they_are(web: Web) -> None:
    letter_id = web.add_dead_letter(source=f"{TOPIC}:0:7", offset=7, code="skipped")
    refused = problem(await web.client.post(f"/dead-letters/{letter_id}/resend"), 409, "not-possible")
    assert f"offset 7 of partition 0 of {TOPIC}" in refused["detail"]


@pytest.mark.parametrize("kind", ["evt", "dlq"])
async def test_a_record_that_kafka_refused_goes_out_again_under_its_id(web: Web, kind: IdKind) -> None:
    event_id = web.add_refused(event_id=web.api.new_id(kind), value=b"1", headers=(("h", b"1"),))
    response = await web.client.post(f"/outbox/{event_id}/resend")
    assert (response.status_code, response.json()) == (202, {"id": event_id, "topic": "invoices"})
    await until(lambda: event_id in [effect.event_id for effect in web.published])
    [effect] = web.published
    assert (effect.topic, effect.value, effect.headers) == ("invoices", b"1", (("h", b"1"),))
    await until(lambda: event_id not in web.store.tables.effects)
    problem(await web.client.post(f"/outbox/{event_id}/resend"), 404, "not-found")


async def test_a_record_that_is_on_its_way_already_is_not_sent_twice(web: Web) -> None:
    web.broker.gate.clear()
    event_id = web.add_refused()
    assert (await web.client.post(f"/outbox/{event_id}/resend")).status_code == 202
    assert (await web.client.post(f"/outbox/{event_id}/resend")).status_code == 202
    web.broker.gate.set()
    await until(lambda: event_id not in web.store.tables.effects)
    assert [effect.event_id for effect in web.published] == [event_id]


async def test_a_record_whose_awakeable_was_rejected_with_it_is_not_sent_again(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    event_id = web.add_refused(task=TaskFacts(awakeable_id=awakeable_id, reply_to=TOPIC), kind="task")
    refused = problem(await web.client.post(f"/outbox/{event_id}/resend"), 409, "not-possible")
    for told in (awakeable_id, "publish-failed", "start the work again"):
        assert told in refused["detail"]
    assert (await web.client.get(f"/outbox/{event_id}")).json()["state"] == "failed"
    assert web.published == []


async def test_offsets_are_shown_and_a_stuck_partition_is_skipped(web: Web) -> None:
    web.store.tables.positions["", TOPIC, 0] = PositionRow("", TOPIC, 0, next=3, epoch=1)
    web.engine.completions.readers[0] = ReaderState(end=9)
    web.engine.problems["partition 0"] = "it can't be read"
    [item] = (await web.client.get("/offsets")).json()["items"]
    assert item == {
        "topic": TOPIC,
        "partition": 0,
        "next": 3,
        "end": 9,
        "lag": 6,
        "epoch": 1,
        "problem": "it can't be read",
    }
    web.engine.completions.readers[0] = ReaderState(end=9, stuck=StuckBatch(offset=3, next=5))
    skipped = await web.client.post("/offsets/0/skip")
    assert (skipped.status_code, skipped.json()["next"]) == (200, 5)
    assert (await web.client.post("/offsets/0/skip?to=7")).json()["next"] == 7


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/offsets/0/skip", 409, "not-possible"),
        ("/offsets/0/skip?to=99", 409, "not-possible"),
        ("/offsets/4/skip", 404, "not-found"),
        ("/offsets/x/skip", 400, "bad-request"),
        ("/offsets/0/skip?to=-1", 400, "bad-request"),
        ("/offsets/0/skip?to=1e3", 400, "bad-request"),
        ("/offsets/0/skip?too=1", 400, "bad-request"),
    ],
)
async def test_a_skip_that_makes_no_sense_is_refused(web: Web, path: str, status: int, kind: str) -> None:
    web.store.tables.positions["", TOPIC, 0] = PositionRow("", TOPIC, 0, next=3, epoch=1)
    web.engine.completions.readers[0] = ReaderState(end=9)
    problem(await web.client.post(path), status, kind)
    assert web.store.tables.positions["", TOPIC, 0].next == 3


async def test_a_subscription_is_paused_moved_and_resumed(web: Web) -> None:
    path, name = "/subscriptions/orders.count", "orders.count"
    [before] = (await web.client.get("/subscriptions")).json()["items"]
    assert before == {
        "name": name,
        "topic": "counts",
        "handler": "orders/count",
        "paused": None,
        "open": 0,
        "max_open": 10_000,
        "problems": [],
        "partitions": [],
    }
    assert "has not begun" in problem(await web.client.post(f"{path}/pause"), 409, "not-possible")["detail"]
    web.store.tables.positions[name, "counts", 0] = PositionRow(name, "counts", 0, next=3, epoch=1)
    web.offsets.ends["counts", 0] = 9
    refused = problem(await web.client.post(f"{path}/seek?to=latest"), 409, "not-possible")
    assert "is not paused" in refused["detail"]
    paused = (await web.client.post(f"{path}/pause")).json()
    assert paused["paused"] is not None
    assert paused["partitions"] == [
        {"partition": 0, "next": 3, "end": None, "lag": None, "problem": None, "waits": None}
    ]
    moved = (await web.client.post(f"{path}/seek?to=latest")).json()
    assert moved == {"items": [{"partition": 0, "before": 3, "next": 9}]}
    assert (await web.client.post(f"{path}/seek?to=9&partition=0")).json() == {"items": []}
    assert (await web.client.post(f"{path}/seek?to=2026-11-30T12:00:00Z")).json() == {"items": []}
    resumed = (await web.client.post(f"{path}/resume")).json()
    assert (resumed["paused"], resumed["partitions"][0]["next"]) == (None, 9)


async def test_a_schedule_is_shown_with_its_next_ticks_paused_triggered_and_resumed(web: Web) -> None:
    path = "/schedules/orders.yearly"
    await until(lambda: web.store.tables.schedules)
    [before] = (await web.client.get("/schedules")).json()["items"]
    assert before == {
        "name": "orders.yearly",
        "handler": "orders/yearly",
        "cron": "0 6 1 1 *",
        "timezone": "Europe/Berlin",
        "interval_seconds": None,
        "overlap": "queue",
        "missed": "once",
        "is_declared": True,
        "paused": None,
        "next": [f"{year}-01-01T05:00:00.000Z" for year in (2026, 2027, 2028)],
        "last_invocation": None,
        "last_status": None,
        "queued": None,
        "is_blocked": False,
    }
    paused = (await web.client.post(f"{path}/pause")).json()
    assert paused["paused"] is not None
    began = await web.client.post(f"{path}/trigger")
    assert began.status_code == 202
    invocation_id = began.json()["invocation_id"]
    shown = (await web.client.get(f"/invocations/{invocation_id}")).json()
    assert shown["scheduled"] is not None
    assert f"input of orders/yearly at the tick {shown['scheduled']}" == shown["journal"][0]["text"]
    assert (await web.client.post(f"{path}/trigger")).json() == {"invocation_id": None}
    await until(lambda: web.store.tables.invocations[invocation_id].status == "suspended")
    resumed = (await web.client.post(f"{path}/resume")).json()
    assert (resumed["paused"], resumed["last_invocation"]) == (None, invocation_id)
    assert resumed["queued"] is not None
    other = await web.begin("greet")
    assert (await web.client.get(f"/invocations/{other}")).json()["scheduled"] is None


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/subscriptions/x/pause", 404, "not-found"),
        ("/schedules/x/pause", 404, "not-found"),
        ("/schedules/x/resume", 404, "not-found"),
        ("/schedules/x/trigger", 404, "not-found"),
        ("/schedules/orders.yearly/trigger?by=1", 400, "bad-request"),
        ("/subscriptions/x/seek?to=latest", 404, "not-found"),
        ("/subscriptions/orders.count/seek", 400, "bad-request"),
        ("/subscriptions/orders.count/seek?to=first", 400, "bad-request"),
        ("/subscriptions/orders.count/seek?to=-1", 400, "bad-request"),
        ("/subscriptions/orders.count/seek?to=2026-11-30T12:00:00", 400, "bad-request"),
        ("/subscriptions/orders.count/seek?to=1&partition=x", 400, "bad-request"),
        ("/subscriptions/orders.count/seek?to=1&partition=4", 404, "not-found"),
        ("/subscriptions/orders.count/seek?to=99", 422, "invalid-input"),
        ("/subscriptions/orders.count/pause?to=1", 400, "bad-request"),
    ],
)
async def test_a_move_that_makes_no_sense_is_refused(web: Web, path: str, status: int, kind: str) -> None:
    row = PositionRow("orders.count", "counts", 0, next=3, epoch=1, paused_ms=1)
    web.store.tables.positions["orders.count", "counts", 0] = row
    problem(await web.client.post(path), status, kind)
    assert web.store.tables.positions["orders.count", "counts", 0] == row


async def test_an_invocation_shows_the_record_that_it_was_begun_for(web: Web) -> None:
    sink = web.engine.subscriptions.topics["orders.count"].sink(2)
    await sink.open()
    await sink.take([ConsumedRecord(offset=7, timestamp_ms=1500, key=None, value=b"3")])
    [listed] = (await web.client.get("/invocations")).json()["items"]
    assert listed["subscription"] == "orders.count"
    shown = (await web.client.get(f"/invocations/{listed['id']}")).json()
    assert shown["record"] == {
        "topic": "counts",
        "partition": 2,
        "offset": 7,
        "timestamp": "1970-01-01T00:00:01.500Z",
    }


async def test_case_o4_dead_letters_are_purged_by_age_and_code(web: Web) -> None:
    for n, code in enumerate(("unreadable", "unreadable", "invalid")):
        web.add_dead_letter(source=f"{TOPIC}:0:{n}", offset=n, code=code)
    purge = "/dead-letters/purge"
    assert (await web.client.post(f"{purge}?older_than=7d")).json() == {"count": 0}
    assert (await web.client.post(f"{purge}?code=unreadable")).json() == {"count": 2}
    assert [x["code"] for x in (await web.client.get("/dead-letters")).json()["items"]] == ["invalid"]
    assert (
        "is not one of" in problem(await web.client.post(f"{purge}?code=bad"), 400, "bad-request")["detail"]
    )
    assert "give older_than" in problem(await web.client.post(purge), 400, "bad-request")["detail"]
    for age in ("old", ""):
        wrong = await web.client.post(f"{purge}?older_than={age}")
        assert problem(wrong, 400, "bad-request")["detail"].startswith(
            "older_than: not a duration; write it as"
        )
    assert len((await web.client.get("/dead-letters")).json()["items"]) == 1
