"""Lists and single rows: `/invocations`, `/awakeables`, `/dead-letters`, `/outbox`, `/health`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from awakeables.core.awakeables import Completion, Heartbeat, cancel
from awakeables.core.commands import Begin, Idempotency
from awakeables.core.effects import TaskFacts
from awakeables.core.ids import IdKind
from awakeables.core.invocations import STATUSES
from awakeables.core.rows import PositionRow
from awakeables.testing.bench import until
from awakeables.wire.journals import decode_journal
from support.ids import new_id
from unit.web.harness import Exchange, Web
from unit.web.test_completing import JSON, problem


async def paused(web: Web) -> str:
    invocation_id = await web.begin("misuse")
    await until(lambda: web.store.tables.invocations[invocation_id].status == "paused")
    return invocation_id


# ── invocations ─────────────────────────────────────────────────────────────────────────────


async def test_invocations_are_listed_newest_first_a_page_at_a_time(web: Web) -> None:
    ids = []
    for _ in range(5):
        ids.append((await web.client.post("/orders/greet")).headers["invocation-id"])
        await asyncio.sleep(0.001)  # IDs sort by the millisecond
    first = (await web.client.get("/invocations", params={"limit": 2})).json()
    assert [item["id"] for item in first["items"]] == ids[:2:-1]
    second = (await web.client.get("/invocations", params={"limit": 2, "before": first["next"]})).json()
    assert [item["id"] for item in second["items"]] == ids[2:0:-1]
    last = (await web.client.get("/invocations", params={"limit": 2, "before": second["next"]})).json()
    assert ([item["id"] for item in last["items"]], last["next"]) == ([ids[0]], None)
    exact = (await web.client.get("/invocations", params={"limit": 5})).json()
    assert (len(exact["items"]), exact["next"]) == (5, None)
    assert first["items"][0]["ended"] == "succeeded"


async def test_invocations_are_filtered_by_status_and_service(web: Web) -> None:
    done = (await web.client.post("/orders/greet")).headers["invocation-id"]
    await asyncio.sleep(0.001)
    stuck = await paused(web)
    for params, expected in (
        ({"status": "completed"}, [done]),
        ({"status": "paused"}, [stuck]),
        ({"status": "running"}, []),
        ({"status": "open"}, [stuck]),
        ({"service": "orders"}, [stuck, done]),
        ({"service": "carts"}, []),
        ({"service": "orders", "handler": "greet"}, [done]),
        ({"service": "orders", "handler": "greet", "status": "paused"}, []),
        ({"service": "orders", "handler": "misuse", "status": "open"}, [stuck]),
        ({"service": "orders", "handler": "wait"}, []),
    ):
        assert await listed(web, **params) == expected


async def listed(web: Web, **query: str) -> list[str]:
    page = (await web.client.get("/invocations", params=query)).json()
    return [item["id"] for item in page["items"]]


async def begun_for(web: Web, subscription: str | None, *, handler: str = "count") -> str:
    """An invocation for a record that was read in this millisecond; it is not due yet."""
    begin = Begin(
        id=web.api.new_id("inv"),
        service="orders",
        handler=handler,
        chunk=b"[]",
        subscription=subscription,
        delay_ms=10**9,
    )
    await web.store.commit([begin])
    await asyncio.sleep(0.001)  # IDs sort by the millisecond
    return begin.id


async def test_invocations_are_filtered_by_subscription_and_by_its_topic(web: Web) -> None:
    web.store.tables.positions["old", "counts", 0] = PositionRow("old", "counts", 0, next=3, epoch=1)
    web.store.tables.positions["older", "others", 0] = PositionRow("older", "others", 0, next=3, epoch=1)
    first, gone, last = [await begun_for(web, name) for name in ("orders.count", "old", "orders.count")]
    elsewhere = await begun_for(web, "older")
    await begun_for(web, None)
    assert await listed(web, subscription="orders.count") == [last, first]
    assert await listed(web, subscription="orders.count", status="open", service="orders") == [last, first]
    assert await listed(web, subscription="orders.count", status="completed") == []
    assert await listed(web, subscription="old", status="pending") == [gone]
    assert await listed(web, topic="counts") == [last, gone, first]
    assert await listed(web, topic="others", status="open") == [elsewhere]
    page = (await web.client.get("/invocations", params={"topic": "counts", "limit": 2})).json()
    assert ([item["id"] for item in page["items"]], page["next"]) == ([last, gone], gone)
    assert page["items"][1]["subscription"] == "old"
    assert await listed(web, topic="counts", before=gone) == [first]
    assert await listed(web, topic="counts", before=first) == []


async def test_what_the_code_no_longer_has_is_listed_as_long_as_there_are_invocations_of_it(web: Web) -> None:
    removed = await begun_for(web, None, handler="removed")
    query = {"service": "orders", "handler": "removed"}
    assert await listed(web, **query) == [removed]
    assert await listed(web, **query, before=removed) == []
    assert await listed(web, **query, status="paused") == []


@pytest.mark.parametrize(
    ("query", "there_is"),
    [
        ("service=order", "no service 'order'; there are: carts, orders"),
        ("service=orders&handler=gret", "service 'orders' has no handler 'gret'; it has: anything, "),
        ("service=order&handler=greet", "no service 'order'; there are: carts, orders"),
        ("subscription=orders.cont", "no subscription 'orders.cont'; there are: old, orders.count"),
        ("subscription=", "no subscription ''; there are: old, orders.count"),
        ("topic=cont", "nothing has subscribed to topic 'cont'; topics with subscriptions: counts, others"),
    ],
)
async def test_a_wrong_name_is_404_and_says_what_there_is(web: Web, query: str, there_is: str) -> None:
    web.store.tables.positions["old", "others", 0] = PositionRow("old", "others", 0, next=3, epoch=1)
    await begun_for(web, None)
    refused = problem(await web.client.get(f"/invocations?{query}"), 404, "not-found")
    assert there_is in refused["detail"]


async def test_one_whose_journal_only_another_release_can_read_is_shown_without_it(web: Web) -> None:
    invocation_id = (await web.client.post("/orders/greet")).headers["invocation-id"]
    assert (await web.client.get(f"/invocations/{invocation_id}")).json()["journal_problem"] is None
    web.store.tables.journals[invocation_id][2] = b'[{"k":"novel"}]'
    shown = (await web.client.get(f"/invocations/{invocation_id}")).json()
    assert (shown["ended"], shown["journal"]) == ("succeeded", [])
    assert "a release that this one" in shown["journal_problem"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/invocations?status=done", ", ".join(STATUSES)),
        (
            "/invocations?state=pending",
            "status, service, handler, subscription, topic, key, idempotency_key, limit",
        ),
        ("/invocations?handler=greet", "together with service= or idempotency_key="),
        ("/invocations?service=orders&key=c-7", "together with idempotency_key="),
        ("/invocations?idempotency_key=k&topic=counts", "can't be used together with idempotency_key="),
        ("/invocations?subscription=orders.count&topic=counts", "not both"),
        ("/invocations?limit=0", "1 to 500"),
        ("/invocations?limit=501", "1 to 500"),
        ("/invocations?limit=-1", "1 to 500"),
        ("/invocations?limit=", "1 to 500"),
        ("/invocations?limit=1&limit=2", "repeated"),
        ("/invocations?%ff=1", "query"),
        ("/awakeables?state=done", "timed-out"),
        ("/awakeables?limit=x", "1 to 500"),
        ("/dead-letters?state=x", "limit, before"),
        ("/outbox?state=sent", "unsent, failed"),
        ("/outbox?status=failed", "state, limit, before"),
        ("/health/live?x=1", "takes none"),
        ("/invocations?" + "&".join(f"a{i}" for i in range(50)), "query"),
    ],
)
async def test_a_wrong_query_is_400_and_says_what_is_allowed(web: Web, path: str, allowed: str) -> None:
    exchange = Exchange("GET", path)
    await exchange.run(web.app)
    assert exchange.status == 400
    assert allowed in exchange.body.decode()


async def test_a_cursor_that_is_not_an_id_is_400(web: Web) -> None:
    for path in ("/invocations", "/awakeables", "/dead-letters", "/outbox"):
        problem(await web.client.get(path, params={"before": "x"}), 400, "malformed-id")


async def test_an_invocation_shows_its_state_and_its_journal(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait_parcel")
    invocation_id = web.store.tables.awakeables[awakeable_id].invocation_id
    await until(lambda: web.store.tables.invocations[invocation_id].status == "suspended")
    shown = (await web.client.get(f"/invocations/{invocation_id}")).json()
    assert (shown["id"], shown["service"], shown["handler"]) == (invocation_id, "orders", "wait_parcel")
    assert (shown["status"], shown["attempts"], shown["result"], shown["ended"]) == (
        "suspended",
        0,
        None,
        None,
    )
    assert shown["created"].startswith("2026-01-01T00:00:00.0")
    assert shown["created"].endswith("Z")
    assert [(line["index"], line["text"]) for line in shown["journal"]] == [
        (0, "input of orders/wait_parcel"),
        (1, f"awakeable {awakeable_id}"),
    ]
    assert shown["journal"][1]["entry"] == {"k": "awakeable", "id": awakeable_id, "timeout_ms": 14_400_000}


async def test_a_journal_is_returned_whole_with_its_values_as_they_were_written(web: Web) -> None:
    begun = await web.client.post("/orders/anything", content=b'{ "n": 1.50 }', headers=JSON)
    invocation_id = begun.headers["invocation-id"]
    response = await web.client.get(f"/invocations/{invocation_id}/journal")
    assert b'"value":{ "n": 1.50 }' in response.content
    stored = decode_journal(response.content)
    assert list(stored.entries) == (await web.api.with_journal(invocation_id, 1_000_000))[1]
    assert stored.result == web.store.tables.invocations[invocation_id].result
    assert (stored.app, stored.invocation_id) == ("shop", invocation_id)
    assert (stored.service, stored.handler, stored.exclusive) == ("orders", "anything", False)


async def test_a_journal_of_an_open_invocation_has_no_result(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    invocation_id = web.store.tables.awakeables[awakeable_id].invocation_id
    await until(lambda: web.store.tables.invocations[invocation_id].status == "suspended")
    document = (await web.client.get(f"/invocations/{invocation_id}/journal")).json()
    assert (document["format"], document["status"], document["result"]) == (1, "suspended", None)
    assert [entry["k"] for entry in document["entries"]] == ["input", "awakeable"]


async def test_a_journal_that_grows_while_it_is_read_is_read_again(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    awakeable_id = await web.awakeable_of("wait")
    invocation_id = web.store.tables.awakeables[awakeable_id].invocation_id
    await until(lambda: web.store.tables.invocations[invocation_id].status == "suspended")
    read, reads = web.store.journal, []

    async def journal(invocation_id: str, most_bytes: int) -> Any:
        found = await read(invocation_id, most_bytes)
        reads.append(found)
        if len(reads) == 1:
            await web.client.post(f"/awakeables/{awakeable_id}/resolve", json="done")
            await web.client.get(f"/invocations/{invocation_id}/attach")
        return found

    monkeypatch.setattr(web.store, "journal", journal)
    document = (await web.client.get(f"/invocations/{invocation_id}/journal")).json()
    assert len(reads) == 2
    assert (document["status"], document["entries"][-1]["k"]) == ("completed", "outcome")


async def test_a_journal_that_is_too_large_or_of_another_release_is_not_returned_in_part(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    invocation_id = (await web.client.post("/orders/greet")).headers["invocation-id"]
    path = f"/invocations/{invocation_id}/journal"
    web.store.tables.journals[invocation_id][2] = b'[{"k":"novel"}]'
    told = problem(await web.client.get(path), 409, "not-possible")["detail"]
    assert "was written by a release that this one can't read" in told
    monkeypatch.setattr("awakeables.web.invocations.MOST_OF_A_STORED_JOURNAL", 1)
    told = problem(await web.client.get(path), 409, "not-possible")["detail"]
    assert told == f"the journal of {invocation_id} is larger than 1 bytes"


async def test_an_invocation_that_fails_shows_why_and_when_it_is_tried_again(web: Web) -> None:
    invocation_id = await web.begin("crash")
    await until(lambda: web.store.tables.invocations[invocation_id].status == "backing-off")
    shown = (await web.client.get(f"/invocations/{invocation_id}")).json()
    assert shown["attempts"] >= 1
    assert shown["due"] > shown["created"]
    assert shown["failure"]["kind"] == "RuntimeError"


async def test_a_result_is_shown(web: Web) -> None:
    failed = (await web.client.post("/orders/fail", json=409)).headers["invocation-id"]
    shown = (await web.client.get(f"/invocations/{failed}")).json()
    assert shown["ended"] == "failed"
    assert shown["result"] == {
        "status": "rejected",
        "reason": "out of stock",
        "code": 409,
        "details": {"sku": "x", "exact": 2**64},
    }


async def test_the_output_is_the_result_the_failure_or_not_yet(web: Web) -> None:
    greeted = (await web.client.post("/orders/greet")).headers["invocation-id"]
    failed = (await web.client.post("/orders/fail", json=409)).headers["invocation-id"]
    waiting = await web.begin("wait")
    for verb in ("output", "attach"):
        response = await web.client.get(f"/invocations/{greeted}/{verb}")
        assert (response.status_code, response.json()) == (200, "hello")
        problem(await web.client.get(f"/invocations/{failed}/{verb}"), 409, "handler-failed")
        response = await web.client.get(f"/invocations/{waiting}/{verb}", headers={"prefer": "wait=2"})
        assert response.status_code == 202
        assert response.headers["retry-after"] == "1"
        assert response.headers["location"] == f"/invocations/{waiting}/output"
        assert response.json()["invocation_id"] == waiting


async def test_attach_waits_for_the_end(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    invocation_id = web.store.tables.awakeables[awakeable_id].invocation_id
    attached = [
        asyncio.ensure_future(web.client.get(f"/invocations/{invocation_id}/attach")) for _ in range(3)
    ]
    await asyncio.sleep(10)
    assert web.waiters == 3
    await web.client.post(f"/awakeables/{awakeable_id}/resolve", json="done")
    assert [(await response).json() for response in attached] == ["done"] * 3
    assert web.waiters == 0


async def test_a_paused_invocation_is_resumed_and_any_other_is_409(web: Web) -> None:
    invocation_id = await paused(web)
    response = await web.client.post(f"/invocations/{invocation_id}/resume")
    assert (response.status_code, response.json()["status"]) == (200, "pending")
    done = (await web.client.post("/orders/greet")).headers["invocation-id"]
    assert (
        "completed"
        in problem(await web.client.post(f"/invocations/{done}/resume"), 409, "not-possible")["detail"]
    )


async def test_ids_that_are_unknown_are_404_and_malformed_ones_400(web: Web) -> None:
    at_ms = web.engine.clock.now_ms()
    kinds: tuple[IdKind, ...] = ("inv", "prom", "dlq", "evt")
    inv, prom, dlq, evt = (new_id(kind, at_ms=at_ms, entropy=bytes(10)) for kind in kinds)
    for known, unknown in (
        (prom, f"/invocations/{inv}"),
        (prom, f"/invocations/{inv}/output"),
        (prom, f"/invocations/{inv}/attach"),
        (inv, f"/awakeables/{prom}"),
        (inv, f"/dead-letters/{dlq}"),
        (inv, f"/outbox/{dlq}"),
        (prom, f"/outbox/{evt}"),
    ):
        problem(await web.client.get(unknown), 404, "not-found")
        other = unknown.replace(unknown.split("/")[2], known)
        problem(await web.client.get(other), 400, "malformed-id")
    problem(await web.client.post(f"/invocations/{inv}/resume"), 404, "not-found")
    problem(await web.client.post(f"/invocations/{prom}/resume"), 400, "malformed-id")


# ── awakeables ──────────────────────────────────────────────────────────────────────────────


async def test_an_awakeable_shows_its_deadline_schema_history_and_heartbeat(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait_parcel")
    url = f"/awakeables/{awakeable_id}"
    await web.api.settle(Completion(awakeable_id=awakeable_id, body=Heartbeat(), source="s:1", worker="w"))
    await web.client.post(f"{url}/resolve", json={"weight": "x"}, headers={"awakeable-event-id": "e-1"})
    await web.client.post(f"{url}/resolve", json={"weight": 3})
    await web.client.post(f"{url}/resolve", json={"weight": 3})
    shown = (await web.client.get(url)).json()
    assert (shown["id"], shown["state"], shown["codec"]) == (awakeable_id, "resolved", "json")
    assert shown["invocation"] == web.store.tables.awakeables[awakeable_id].invocation_id
    assert shown["deadline"].startswith("2026-01-01T04:00:00")
    assert shown["schema"]["properties"]["weight"] == {"title": "Weight", "type": "integer"}
    assert shown["outcome"] == {"status": "resolved", "value": {"weight": 3}}
    assert shown["verdicts"] == {
        "accepted": 1, "duplicate": 1, "conflict": 0, "late": 0, "unknown": 0, "invalid": 1,
    }  # fmt: skip
    assert [entry["verdict"] for entry in shown["first"]] == ["invalid", "accepted", "duplicate"]
    assert shown["first"][0]["event_id"] == "e-1"
    assert shown["last"] == []
    assert (shown["heartbeat"]["worker"], shown["heartbeat"]["progress"]) == ("w", None)


async def test_awakeables_of_bytes_show_base64(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait_bytes")
    await web.client.post(f"/awakeables/{awakeable_id}/resolve", content=b"\xff")
    shown = (await web.client.get(f"/awakeables/{awakeable_id}")).json()
    assert shown["outcome"] == {"status": "resolved", "value_base64": "/w=="}
    assert (shown["schema"], shown["heartbeat"], shown["deadline"]) == (None, None, None)


async def test_case_o3_of_a_long_journal_the_beginning_is_shown(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("awakeables.web.invocations.MOST_OF_A_JOURNAL", 1)
    awakeable_id = await web.awakeable_of("wait")
    invocation_id = web.store.tables.awakeables[awakeable_id].invocation_id
    await web.client.post(f"/awakeables/{awakeable_id}/resolve", json="done")
    await web.client.get(f"/invocations/{invocation_id}/attach")
    shown = (await web.client.get(f"/invocations/{invocation_id}")).json()
    # The first commit has the input and the first step.
    assert [entry["index"] for entry in shown["journal"]] == [0, 1]
    assert shown["journal_problem"] == "it is larger than 1 bytes; only the beginning is shown"


async def test_awakeables_are_listed_and_filtered_by_state(web: Web) -> None:
    ids = [await web.awakeable_of("wait") for _ in range(3)]
    await web.client.post(f"/awakeables/{ids[1]}/reject", content=b"no")
    everything = (await web.client.get("/awakeables")).json()
    assert [item["id"] for item in everything["items"]] == sorted(ids, reverse=True)
    rejected = (await web.client.get("/awakeables?state=rejected")).json()
    assert [item["id"] for item in rejected["items"]] == [ids[1]]
    page = (await web.client.get("/awakeables?state=pending&limit=1")).json()
    assert page["next"] == page["items"][0]["id"]


async def test_cancelled_awakeables_show_why(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    row = web.store.tables.awakeables[awakeable_id]
    cancelled = cancel(row, now_ms=row.created_ms, reason="its invocation ended")
    assert cancelled is not None
    web.store.tables.awakeables[awakeable_id] = cancelled
    shown = (await web.client.get(f"/awakeables/{awakeable_id}")).json()
    assert shown["outcome"] == {"status": "cancelled", "reason": "its invocation ended"}


# ── dead letters ────────────────────────────────────────────────────────────────────────────


async def test_dead_letters_are_shown_as_text_or_else_in_base64(web: Web) -> None:
    headers = (("ce_type", b"x"), ("h", b"\xff"), ("none", None))
    letter_id = web.add_dead_letter(
        source="shop.completions:0:1", offset=1, key="Größe".encode(), value=b"\xff\xfe", headers=headers
    )
    empty = web.add_dead_letter(source="shop.completions:0:2", offset=2)
    shown = (await web.client.get(f"/dead-letters/{letter_id}")).json()
    assert (shown["key"], shown["value_base64"]) == ("Größe", "//4=")
    assert shown["headers"] == [
        {"name": "ce_type", "value": "x"},
        {"name": "h", "value_base64": "/w=="},
        {"name": "none", "value": None},
    ]
    assert (shown["topic"], shown["offset"], shown["code"]) == ("shop.completions", 1, "unreadable")
    shown = (await web.client.get(f"/dead-letters/{empty}")).json()
    assert (shown["key"], shown["value"], shown["headers"]) == (None, None, [])
    listed = (await web.client.get("/dead-letters?limit=1")).json()
    assert listed["next"] == listed["items"][0]["id"]
    assert {"value", "value_base64"}.isdisjoint(listed["items"][0])


# ── outbox ──────────────────────────────────────────────────────────────────────────────────


async def test_records_that_kafka_refused_are_listed_newest_first_whatever_their_ids(web: Web) -> None:
    ids = []
    for kind in ("dlq", "evt", "dlq", "evt"):
        ids.append(web.add_refused(event_id=web.api.new_id(kind)))
        await asyncio.sleep(0.001)  # IDs sort by the millisecond
    for limit in (1, 2, 3):
        found: list[str] = []
        query = {"limit": str(limit)}
        while True:
            page = (await web.client.get("/outbox", params=query)).json()
            found += [item["id"] for item in page["items"]]
            if page["next"] is None:
                break
            assert len(page["items"]) == limit
            query["before"] = page["next"]
        assert found == ids[::-1]


async def test_a_refused_record_shows_why_whose_it_is_and_what_is_in_it(web: Web) -> None:
    inv, prom = web.api.new_id("inv"), web.api.new_id("prom")
    task = TaskFacts(awakeable_id=prom, reply_to="shop.completions")
    headers = (("h", b"\xff"), ("none", None))
    refused = web.add_refused(stream=inv, key="Größe".encode(), value=b"\xff", headers=headers, task=task)
    shown = (await web.client.get(f"/outbox/{refused}")).json()
    assert (shown["id"], shown["state"], shown["reason"]) == (refused, "failed", "too large")
    assert (shown["topic"], shown["invocation"], shown["awakeable"]) == ("invoices", inv, prom)
    assert (shown["key"], shown["value_base64"]) == ("Größe", "/w==")
    assert shown["headers"] == [{"name": "h", "value_base64": "/w=="}, {"name": "none", "value": None}]
    [item] = (await web.client.get("/outbox")).json()["items"]
    assert item == {name: shown[name] for name in item}
    assert {"value", "value_base64", "headers"}.isdisjoint(item)
    bare = web.add_refused(event_id=web.api.new_id("dlq"))
    shown = (await web.client.get(f"/outbox/{bare}")).json()
    assert (shown["invocation"], shown["awakeable"], shown["key"], shown["value"]) == (None,) * 4


async def test_case_u2_an_unsent_record_shows_what_it_waits_for(web: Web) -> None:
    web.broker.missing = {"invoices"}
    event_id = web.add_refused()
    await web.client.post(f"/outbox/{event_id}/resend")
    await asyncio.sleep(1)
    [item] = (await web.client.get("/outbox", params={"state": "unsent"})).json()["items"]
    assert (item["id"], item["reason"]) == (event_id, "there is no topic 'invoices'")
    assert (await web.client.get(f"/outbox/{event_id}")).json()["reason"] == item["reason"]
    web.broker.missing = set()
    await until(lambda: web.published)
    await until(lambda: not web.store.tables.effects)
    assert (await web.client.get("/outbox", params={"state": "unsent"})).json()["items"] == []


async def test_records_that_wait_for_kafka_are_listed_by_their_state(web: Web) -> None:
    refused = web.add_refused()
    web.broker.gate.clear()
    waiting = web.add_refused()
    assert (await web.client.post(f"/outbox/{waiting}/resend")).status_code == 202
    for query, expected in (("", refused), ("?state=failed", refused), ("?state=unsent", waiting)):
        [item] = (await web.client.get(f"/outbox{query}")).json()["items"]
        assert item["id"] == expected
    assert (item["state"], item["reason"]) == ("unsent", None)


# ── health ──────────────────────────────────────────────────────────────────────────────────


async def test_a_service_that_is_well_is_live_and_ready(web: Web) -> None:
    live = await web.client.get("/health/live")
    ready = await web.client.get("/health/ready")
    assert (live.status_code, ready.status_code, ready.json()) == (200, 200, {"ready": True})


async def test_a_service_whose_store_is_down_is_live_but_not_ready(web: Web) -> None:
    web.store.down = True
    await until(lambda: web.engine.problems)
    response = await web.client.get("/health/ready")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json() == {"ready": False, "problems": {"store": "the disk is gone"}}
    assert (await web.client.get("/health/live")).status_code == 200
    web.store.down = False
    await until(lambda: not web.engine.problems)
    assert (await web.client.get("/health/ready")).status_code == 200


@pytest.mark.parametrize("about", ["broker", "completions topic", "partition 3", "tokens"])
async def test_case_o7_what_takes_no_work_away_is_degraded_and_calls_are_taken(web: Web, about: str) -> None:
    web.engine.problems[about] = "it is away"
    response = await web.client.get("/health/ready")
    assert (response.status_code, response.json()) == (
        200,
        {"ready": True, "degraded": {about: "it is away"}},
    )
    assert (await web.client.post("/orders/greet/send")).status_code == 202
    web.store.down = True
    await until(lambda: "store" in web.engine.problems)
    document = (await web.client.get("/health/ready")).json()
    assert document["problems"] == {"store": "the disk is gone"}
    assert document["degraded"] == {about: "it is away"}
    web.store.down = False
    await until(lambda: "store" not in web.engine.problems)


async def test_a_service_that_drains_is_not_ready(web: Web) -> None:
    await web.engine.drain(timedelta(seconds=1))
    assert (await web.client.get("/health/ready")).json()["problems"] == {"service": "draining"}


async def test_a_service_that_starts_is_not_ready(web: Web) -> None:
    web.engine.serving.clear()
    assert (await web.client.get("/health/ready")).json()["problems"] == {"service": "starting"}


async def test_while_the_store_is_down_looking_is_503(web: Web) -> None:
    done = (await web.client.post("/orders/greet")).headers["invocation-id"]
    web.store.down = True
    response = await web.client.get(f"/invocations/{done}")
    problem(response, 503, "store-unavailable")
    assert response.headers["retry-after"] == "1"


async def test_content_type_of_lists_is_json(web: Web) -> None:
    assert (await web.client.get("/invocations")).headers["content-type"] == JSON["content-type"]


async def test_case_u7_an_idempotency_key_is_shown_and_finds_its_invocation(web: Web) -> None:
    async def call(path: str, key: str) -> str:
        answer = await web.client.post(path, headers={"idempotency-key": key})
        return answer.headers["invocation-id"]

    greeted, waiting = await call("/orders/greet", "o-1"), await call("/orders/wait/send", "o-1")
    other = await call("/orders/greet", "o-2")
    alone = (await web.client.post("/orders/greet")).headers["invocation-id"]

    async def found(**query: str) -> list[str]:
        page = (await web.client.get("/invocations", params=query)).json()
        return [item["id"] for item in page["items"]]

    assert sorted(await found(idempotency_key="o-1")) == sorted([greeted, waiting])
    assert await found(idempotency_key="o-1", handler="greet") == [greeted]
    assert await found(idempotency_key="o-1", service="nowhere") == []
    assert await found(idempotency_key="o-1", status="completed") == [greeted]
    assert await found(idempotency_key="o-2") == [other]
    assert await found(idempotency_key="o-3") == []
    assert await found(idempotency_key="o-1", key="c-7") == []
    first = (await web.client.get("/invocations", params={"idempotency_key": "o-1", "limit": 1})).json()
    assert await found(idempotency_key="o-1", before=first["next"]) == [min(greeted, waiting)]
    for invocation_id, key in ((greeted, "o-1"), (other, "o-2"), (alone, None)):
        assert (await web.client.get(f"/invocations/{invocation_id}")).json()["idempotency_key"] == key
    refused = await web.client.get("/invocations", params={"handler": "greet"})
    assert refused.status_code == 400


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
async def test_case_u7_a_key_of_any_letters_is_shown_and_found_as_it_was_meant(web: Web, coding: str) -> None:
    sent = {b"idempotency-key": "größe-7".encode(coding)}
    begun = (await web.client.post("/orders/greet", headers=sent)).headers["invocation-id"]
    page = (await web.client.get("/invocations", params={"idempotency_key": "größe-7"})).json()
    assert [item["id"] for item in page["items"]] == [begun]
    assert (await web.client.get(f"/invocations/{begun}")).json()["idempotency_key"] == "größe-7"


async def test_case_u7_a_key_of_a_handler_that_was_removed_is_found_by_both_names(web: Web) -> None:
    begin = Begin(
        id=web.api.new_id("inv"),
        service="orders",
        handler="gone",
        chunk=b"[]",
        idempotency=Idempotency(scope="orders/gone", key="o-1", fingerprint="f"),
        delay_ms=10**9,
    )
    await web.store.commit([begin])
    query = {"idempotency_key": "o-1", "service": "orders", "handler": "gone"}
    page = (await web.client.get("/invocations", params=query)).json()
    assert [item["id"] for item in page["items"]] == [begin.id]
    assert (await web.client.get("/invocations", params={"idempotency_key": "o-1"})).json()["items"] == []
