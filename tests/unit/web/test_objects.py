"""Virtual objects over HTTP: calls for a key, `/objects`, and why an invocation goes on no further."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from msgspec.structs import replace
from structlog.typing import EventDict

from awakeables.core.invocations import Status
from awakeables.core.records import rfc3339
from awakeables.core.sealed import unopened
from awakeables.errors import KeyMissing
from awakeables.handlers.invoking import LONGEST_OBJECT_KEY
from awakeables.queries import WaitingInvocation
from awakeables.telemetry import events
from awakeables.testing.bench import until
from awakeables.web import render
from support.ids import new_id
from support.logs import heard
from unit.web.harness import Exchange, Web, serving
from unit.web.test_acts import tokens_of
from unit.web.test_completing import JSON, problem
from unit.web.test_guard import bearer

NOW = {"prefer": "wait=0"}
C7 = "/objects/carts/c-7"


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with heard() as logs:
        yield logs


async def has_status(web: Web, invocation_id: str, status: Status) -> None:
    await until(lambda: web.store.tables.invocations[invocation_id].status == status)


async def held(web: Web, key: str = "c-7") -> str:
    """An invocation that holds a key, and waits."""
    response = await web.client.post(f"/carts/{key}/checkout/send")
    invocation_id: str = response.json()["invocation_id"]
    await has_status(web, invocation_id, "suspended")
    return invocation_id


async def sent(web: Web, item: str, key: str = "c-7") -> str:
    response = await web.client.post(f"/carts/{key}/add/send", json=item)
    assert response.status_code == 202
    invocation_id: str = response.json()["invocation_id"]
    return invocation_id


# ── calls ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", ["c-7", "a/b c", "größe", "100%", "send", "..", "/", "\0", "?#&=+"])
async def test_a_handler_is_called_for_the_key_in_the_path(web: Web, key: str) -> None:
    path = f"/carts/{quote(key, safe='').replace('..', '%2E%2E')}/add"
    response = await web.client.post(path, json="tea")
    assert (response.status_code, response.json()) == (200, [key, "tea"])
    sent = await web.client.post(f"{path}/send", json="cup")
    assert sent.status_code == 202
    await has_status(web, sent.json()["invocation_id"], "completed")
    assert (await web.client.post(path, json="pot")).json() == [key, "tea", "cup", "pot"]
    shown = (await web.client.get(f"/invocations/{response.headers['invocation-id']}")).json()
    assert (shown["service"], shown["key"], shown["handler"]) == ("carts", key, "add")


async def test_a_key_that_is_sent_without_being_encoded_is_the_same_key(web: Web) -> None:
    for path in ("/carts/größe/add", "/carts/gr%C3%B6ße/add", f"/carts/{quote('größe')}/add"):
        exchange = Exchange("POST", path, headers=JSON, chunks=[b'"x"'])
        await exchange.run(web.app)
        assert exchange.status == 200
    assert json.loads(exchange.body) == ["größe", "x", "x", "x"]
    latin = Exchange("POST", "/")
    latin.scope["raw_path"] = b"/carts/gr\xf6\xdfe/add"
    await latin.run(web.app)
    assert latin.status == 400


async def test_a_shared_handler_is_answered_while_the_key_is_held(web: Web) -> None:
    await web.client.post("/carts/c-7/add", json="tea")
    await held(web)
    assert (await web.client.post("/carts/c-7/size")).json() == 1
    response = await web.client.post("/carts/c-7/add", json="cup", headers=NOW)
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    assert (await web.client.post("/carts/c-8/add", json="cup")).json() == ["c-8", "cup"]


async def test_a_queued_call_is_answered_when_its_turn_has_come(web: Web) -> None:
    await held(web)
    call = asyncio.ensure_future(web.client.post("/carts/c-7/add", json="tea"))
    await asyncio.sleep(10)
    assert not call.done()
    [awakeable_id] = web.store.tables.awakeables
    await web.client.post(f"/awakeables/{awakeable_id}/resolve", json={"weight": 3})
    assert (await call).json() == ["c-7", "tea"]
    assert web.waiters == 0


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/carts/add", "/carts/{key}/add"),
        ("/carts/add/send", "/carts/{key}/add/send"),
        ("/carts/size", "/carts/{key}/size"),
        ("/orders/o-1/greet", "/orders/greet"),
        ("/orders/o-1/greet/send", "/orders/greet/send"),
    ],
)
async def test_a_call_with_a_key_too_few_or_too_many_is_told_the_path(
    web: Web, path: str, right: str
) -> None:
    document = problem(await web.client.post(path, content=b"{"), 404, "not-found")
    assert document["detail"].endswith(f": POST {right}")
    assert web.store.tables.invocations == {}


async def test_what_is_not_there_is_404_for_any_key(web: Web) -> None:
    detail = problem(await web.client.post("/baskets/c-7/add"), 404, "not-found")["detail"]
    assert "'baskets'" in detail
    assert "add" in problem(await web.client.post("/carts/c-7/nothing"), 404, "not-found")["detail"]
    assert "add" in problem(await web.client.get("/carts/c-7/nothing"), 404, "not-found")["detail"]
    problem(await web.client.post("/carts//add"), 404, "not-found")
    for path in ("/carts/c-7/hidden_add", "/carts/c-7/hidden_add/send"):
        assert "is private" in problem(await web.client.post(path), 404, "not-found")["detail"]


@pytest.mark.parametrize(("length", "status"), [(LONGEST_OBJECT_KEY, 200), (LONGEST_OBJECT_KEY + 1, 422)])
async def test_a_key_has_as_many_bytes_as_it_may(web: Web, length: int, status: int) -> None:
    response = await web.client.post(f"/carts/{'x' * (length - 2)}%C3%9F/add", json="tea")
    assert response.status_code == status
    if status == 422:
        assert "1 to 1,024 bytes" in problem(response, 422, "invalid-input")["detail"]


@pytest.mark.parametrize("how", ["call", "no wait", "idempotent", "send"])
async def test_a_call_for_a_key_whose_queue_is_full_is_429_and_begins_nothing(web: Web, how: str) -> None:
    await held(web)
    for item in ("tea", "cup"):
        await sent(web, item)
    before = set(web.store.tables.invocations)
    headers = {"no wait": NOW, "idempotent": {"idempotency-key": "k"}}.get(how, {})
    path = "/carts/c-7/add/send" if how == "send" else "/carts/c-7/add"
    response = await web.client.post(path, json="pot", headers=headers)
    detail = problem(response, 429, "queue-full")["detail"]
    assert detail == "carts/c-7 has 3 calls in its queue already, as many as its object allows"
    assert response.headers["retry-after"] == "1"
    assert set(web.store.tables.invocations) == before
    assert web.waiters == 0
    assert (await web.client.post("/carts/c-8/add", json="pot")).status_code == 200


async def test_a_call_whose_refusal_comes_late_is_429_too(web: Web) -> None:
    await held(web)
    for item in ("tea", "cup"):
        await sent(web, item)
    web.store.slow_s = 3
    problem(await web.client.post("/carts/c-7/add", json="pot"), 429, "queue-full")
    web.store.slow_s = 0
    assert web.waiters == 0


async def test_an_idempotency_key_is_unique_per_key_of_the_object(web: Web) -> None:
    keyed = {"idempotency-key": "k-1"}
    first = await web.client.post("/carts/c-7/add", json="tea", headers=keyed)
    again = await web.client.post("/carts/c-7/add", json="tea", headers=keyed)
    other = await web.client.post("/carts/c-8/add", json="cup", headers=keyed)
    assert first.json() == again.json() == ["c-7", "tea"]
    assert other.json() == ["c-8", "cup"]
    found = await web.client.get("/invocations", params={"idempotency_key": "k-1", "key": "c-8"})
    assert [row["key"] for row in found.json()["items"]] == ["c-8"]
    assert (await web.client.get("/invocations", params={"idempotency_key": "k-1"})).json()["items"] == []
    assert (await web.client.get("/invocations", params={"key": "c-8"})).status_code == 400
    problem(await web.client.post("/carts/c-7/add", json="cup", headers=keyed), 422, "idempotency-conflict")
    later = await web.client.post("/carts/c-8/add/send", json="cup", headers=keyed)
    assert later.json() == {"invocation_id": other.headers["invocation-id"], "created": False}


async def test_a_delayed_call_takes_its_place_when_its_time_has_come(web: Web) -> None:
    response = await web.client.post("/carts/c-7/add/send?delay=10s", json="tea")
    invocation_id = response.json()["invocation_id"]
    await asyncio.sleep(5)
    assert web.store.tables.invocations[invocation_id].status == "pending"
    assert (await web.client.post("/carts/c-7/add", json="cup")).json() == ["c-7", "cup"]
    await asyncio.sleep(8)
    assert web.store.tables.invocations[invocation_id].status == "completed"


async def test_a_token_for_one_object_calls_that_one_and_follows_its_own(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "t.toml", shop="call:carts", other="call:orders")
    async with serving(tokens=tokens) as web:
        problem(
            await web.client.post("/carts/c-7/checkout", headers=bearer("other")), 403, "insufficient-scope"
        )
        begun = await web.client.post("/carts/c-7/checkout", headers=bearer("shop") | NOW)
        assert begun.status_code == 202
        path = begun.headers["location"]
        assert (await web.client.get(path, headers=bearer("shop"))).status_code == 202
        problem(await web.client.get(path, headers=bearer("other")), 403, "insufficient-scope")


# ── the keys of an object ───────────────────────────────────────────────────────────────────


async def test_keys_with_a_queue_are_listed_in_order_a_page_at_a_time(web: Web) -> None:
    holders = {key: await held(web, quote(key, safe="")) for key in ("c-7", "a/b", "größe")}
    await sent(web, "tea")
    await web.client.post("/objects/carts/d/pause")
    first = (await web.client.get("/objects/carts?limit=2")).json()
    assert [item["key"] for item in first["items"]] == ["a/b", "c-7"]
    assert first["next"] == "c-7"
    row = first["items"][1]
    assert row.keys() == {"key", "head", "since", "length", "paused"}
    assert (row["head"], row["length"], row["paused"]) == (holders["c-7"], 2, None)
    assert row["since"].startswith("2026-01-01T00:00:0")
    second = (await web.client.get("/objects/carts", params={"limit": 2, "after": first["next"]})).json()
    assert [item["key"] for item in second["items"]] == ["d", "größe"]
    assert second["next"] is None
    paused = second["items"][0]
    assert (paused["head"], paused["since"], paused["length"]) == (None, None, 0)
    assert paused["paused"].startswith("2026-01-01T00:00:0")


async def test_keys_with_state_are_listed_by_key_alone(web: Web) -> None:
    for key in ("b", "a", "c"):
        await web.client.post(f"/carts/{key}/add", json="tea")
    assert (await web.client.get("/objects/carts")).json() == {"items": [], "next": None}
    page = (await web.client.get("/objects/carts?having=state&limit=2")).json()
    assert page == {"items": [{"key": "a"}, {"key": "b"}], "next": "b"}
    page = (await web.client.get("/objects/carts?having=state&limit=2&after=b")).json()
    assert page == {"items": [{"key": "c"}], "next": None}


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/objects/baskets", 404, "no object 'baskets'; there are these objects: carts"),
        ("/objects/orders", 404, "no object 'orders'; there are these objects: carts"),
        ("/objects/carts?having=nothing", 400, "having='nothing' is not one of queue, state"),
        ("/objects/carts?limit=0", 400, "1 to 500"),
        ("/objects/carts?before=x", 400, "having, limit, after"),
        ("/objects/carts/c-7/state?limit=x", 400, "1 to 500"),
        ("/objects/baskets/c-7", 404, "no object 'baskets'"),
        ("/objects/baskets/c-7/state", 404, "no object or workflow 'baskets'"),
        (f"/objects/carts/{'x' * 1025}", 422, "1 to 1,024 bytes"),
        (f"/objects/carts/{'x' * 1025}/state", 422, "1 to 1,024 bytes"),
    ],
)
async def test_a_wrong_question_about_keys_is_refused(web: Web, path: str, status: int, says: str) -> None:
    kind = {400: "bad-request", 404: "not-found", 422: "invalid-input"}[status]
    assert says in problem(await web.client.get(path), status, kind)["detail"]


async def test_the_methods_of_a_key_are_those_that_are_served(web: Web) -> None:
    for path, allow in ((C7, "GET"), (f"{C7}/state", "GET, PATCH"), (f"{C7}/pause", "POST")):
        response = await web.client.request("DELETE", path)
        problem(response, 405, "method-not-allowed")
        assert response.headers["allow"] == allow


async def test_a_key_without_a_queue_is_shown_empty(web: Web) -> None:
    await web.client.post("/carts/c-7/add", json="tea")
    assert (await web.client.get(C7)).json() == {
        "object": "carts",
        "key": "c-7",
        "head": [],
        "since": None,
        "length": 0,
        "in_line": [],
        "paused": None,
        "acts": [],
    }


async def test_a_key_shows_who_holds_it_what_for_and_who_is_next(web: Web) -> None:
    head = await held(web)
    behind = [await sent(web, item) for item in ("tea", "cup")]
    shown = (await web.client.get(C7)).json()
    assert (shown["object"], shown["key"], shown["length"], shown["paused"]) == ("carts", "c-7", 3, None)
    assert shown["since"].startswith("2026-01-01T00:00:0")
    [holder] = shown["head"]
    assert (holder["invocation"]["id"], holder["invocation"]["status"]) == (head, "suspended")
    [wait] = holder["waits"]
    [row] = web.store.tables.awakeables.values()
    assert (wait["id"], wait["type"], wait["topic"], wait["invocation"]) == (
        row.id,
        row.type_name,
        None,
        None,
    )
    assert wait["type"].endswith(".Parcel")
    assert wait["deadline"].startswith("2026-01-01T04:00:0")
    assert [(each["id"], each["handler"], each["status"]) for each in shown["in_line"]] == [
        (invocation_id, "add", "queued") for invocation_id in behind
    ]


# ── pausing a key, and its state ────────────────────────────────────────────────────────────


async def test_a_key_is_paused_and_resumed_and_says_by_whom(web: Web, logged: list[EventDict]) -> None:
    paused = await web.client.post(f"{C7}/pause")
    assert paused.status_code == 200
    assert paused.json()["paused"].startswith("2026-01-01T00:00:0")
    invocation_id = await sent(web, "tea")
    await asyncio.sleep(10)
    shown = (await web.client.get(C7)).json()
    assert (shown["head"], shown["since"], shown["length"]) == ([], None, 1)
    assert [each["id"] for each in shown["in_line"]] == [invocation_id]
    assert [(act["act"], act["by"]) for act in shown["acts"]] == [("pause", "loopback")]
    assert (await web.client.post(f"{C7}/pause")).json()["paused"] == shown["paused"]
    resumed = await web.client.post(f"{C7}/resume")
    assert (resumed.status_code, resumed.json()["paused"]) == (200, None)
    await has_status(web, invocation_id, "completed")
    assert (await web.client.post(f"{C7}/resume")).status_code == 200
    lines = [line for line in logged if line["event"] == events.OPERATOR_ACTED]
    assert [(line["act"], line["object"], line["key"]) for line in lines] == [
        (act, "carts", "c-7") for act in ("pause", "pause", "resume", "resume")
    ]
    for verb in ("pause", "resume"):
        problem(await web.client.post(f"/objects/baskets/c-7/{verb}"), 404, "not-found")


async def test_the_state_is_shown_by_name_as_it_was_written(web: Web) -> None:
    await web.client.post("/carts/c-7/add", json="tea")
    await web.client.post("/carts/c-7/draw", content=b"\xff")
    await web.client.post(f"{C7}/pause")
    await web.client.patch(f"{C7}/state", headers=JSON, content=b'{"total": 18446744073709551616}')
    first = await web.client.get(f"{C7}/state?limit=2")
    assert [(item["name"], item.get("value")) for item in first.json()["items"]] == [
        ("items", ["tea"]),
        ("photo", None),
    ]
    assert first.json()["items"][1]["value_base64"] == "/w=="
    assert first.json()["next"] == "photo"
    second = await web.client.get(f"{C7}/state?limit=2&after=photo")
    assert b'"value":18446744073709551616,' in second.content
    assert second.json()["items"][0]["updated"].startswith("2026-01-01T00:00:0")
    assert second.json()["next"] is None
    assert (await web.client.get("/objects/carts/other/state")).json() == {"items": [], "next": None}


@pytest.mark.parametrize("media_type", ["application/json", "application/merge-patch+json"])
async def test_the_state_of_a_paused_key_is_edited_and_null_removes(
    web: Web, media_type: str, logged: list[EventDict]
) -> None:
    await web.client.post("/carts/c-7/add", json="tea")
    await web.client.post(f"{C7}/pause")
    headers = {"content-type": media_type}
    change = b'{"items": null, "total":  1 , "note/a": {"b": [1.50, null]}}'
    response = await web.client.patch(f"{C7}/state", headers=headers, content=change)
    assert response.status_code == 200
    assert [act["act"] for act in response.json()["acts"]] == ["pause", "edit"]
    shown = await web.client.get(f"{C7}/state")
    assert {item["name"]: item["value"] for item in shown.json()["items"]} == {
        "total": 1,
        "note/a": {"b": [1.5, None]},
    }
    assert b'"value":{"b": [1.50, null]}' in shown.content
    [line] = [line for line in logged if line.get("act") == "edit"]
    assert (line["key"], line["names"], line["outcome"]) == ("c-7", ["items", "note/a", "total"], "done")
    await web.client.post(f"{C7}/resume")
    assert (await web.client.post("/carts/c-7/size")).json() == 0


async def test_a_key_that_is_not_paused_or_is_held_is_not_edited(web: Web) -> None:
    refused = problem(await web.client.patch(f"{C7}/state", json={"total": 1}), 409, "not-possible")
    assert "carts/c-7 is not paused" in refused["detail"]
    head = await held(web)
    assert (await web.client.post(f"{C7}/pause")).json()["head"][0]["invocation"]["id"] == head
    refused = problem(await web.client.patch(f"{C7}/state", json={"total": 1}), 409, "not-possible")
    assert f"carts/c-7 is held by {head}" in refused["detail"]
    await web.client.post(f"/invocations/{head}/kill")
    assert (await web.client.patch(f"{C7}/state", json={"total": 1})).status_code == 200


@pytest.mark.parametrize(
    ("content", "media_type", "status", "kind", "says"),
    [
        (b'{"total": "x"}', "application/json", 422, "invalid-input", "does not fit the state 'total'"),
        (b'{"photo": 1}', "application/json", 422, "invalid-input", "'photo' is not kept as JSON"),
        (b'{"%s": 1}' % (b"x" * 256), "application/json", 422, "invalid-input", "at most 255"),
        (b"[1]", "application/json", 400, "malformed-body", "an object of names and values"),
        (b"null", "application/json", 400, "malformed-body", "an object of names and values"),
        (b"", "application/json", 400, "malformed-body", "an object of names and values"),
        (b"{", "application/json", 400, "malformed-body", "not JSON"),
        (b"{}", "text/plain", 415, "unsupported-media-type", "is not JSON"),
    ],
)
async def test_a_change_of_the_state_that_does_not_fit_changes_nothing(
    web: Web, content: bytes, media_type: str, status: int, kind: str, says: str
) -> None:
    await web.client.post(f"{C7}/pause")
    headers = {"content-type": media_type}
    response = await web.client.patch(f"{C7}/state", headers=headers, content=content)
    assert says in problem(response, status, kind)["detail"]
    assert (await web.client.get(f"{C7}/state")).json()["items"] == []
    problem(await web.client.patch("/objects/baskets/c-7/state", json={}), 404, "not-found")


# ── why an invocation goes on no further ────────────────────────────────────────────────────


async def test_a_queued_invocation_waits_for_the_one_that_holds_its_key(web: Web) -> None:
    head = await held(web)
    queued = await sent(web, "tea")
    items = (await web.client.get(f"/invocations/{queued}/why")).json()["items"]
    assert [(item["invocation"]["id"], item["invocation"]["status"]) for item in items] == [
        (queued, "queued"),
        (head, "suspended"),
    ]
    assert [len(item["waits"]) for item in items] == [0, 1]


async def test_the_chain_goes_on_along_calls_and_keys(web: Web) -> None:
    head = await held(web)
    begun = await web.client.post("/orders/fill_cart/send", json="c-7")
    caller = begun.json()["invocation_id"]
    await has_status(web, caller, "suspended")
    items = (await web.client.get(f"/invocations/{caller}/why")).json()["items"]
    assert [item["invocation"]["handler"] for item in items] == ["fill_cart", "add", "checkout"]
    assert items[0]["waits"][0]["invocation"] == items[1]["invocation"]["id"]
    assert items[2]["invocation"]["id"] == head
    assert items[1]["invocation"]["key"] == "c-7"


async def test_a_wait_shows_the_last_heartbeat_and_how_long_the_next_may_take(web: Web) -> None:
    awakeable_id = await web.awakeable_of("watched")
    path = f"/invocations/{web.store.tables.awakeables[awakeable_id].invocation_id}/why"

    async def shown() -> tuple[int, str | None]:
        [item] = (await web.client.get(path)).json()["items"]
        [wait] = item["waits"]
        return wait["heartbeat_timeout_ms"], wait["heartbeat"]

    assert await shown() == (30_000, None)
    kept = await web.client.post(f"/awakeables/{awakeable_id}/heartbeat", json={"done": 3})
    assert kept.status_code == 200, kept.text
    row = web.store.tables.awakeables[awakeable_id]
    assert row.heartbeat is not None
    assert await shown() == (30_000, rfc3339(row.heartbeat.at_ms))


async def test_a_wait_whose_heartbeat_can_not_be_opened_says_nothing_of_it(web: Web) -> None:
    awakeable_id = await web.awakeable_of("watched")
    row = web.store.tables.awakeables[awakeable_id]
    lost = replace(row, heartbeat_json=unopened(b"?", KeyMissing("no key")))
    waiting = WaitingInvocation(web.store.tables.invocations[row.invocation_id], [lost], None)
    [shown] = render.why([waiting]).items
    assert (shown.waits[0].heartbeat_timeout_ms, shown.waits[0].heartbeat) == (None, None)


async def test_one_that_is_backing_off_says_why(web: Web) -> None:
    begun = await web.client.post("/carts/c-7/fail_at/send")
    invocation_id = begun.json()["invocation_id"]
    await has_status(web, invocation_id, "backing-off")
    [item] = (await web.client.get(f"/invocations/{invocation_id}/why")).json()["items"]
    assert "ValueError: no such cart" in item["invocation"]["reason"]
    [head] = (await web.client.get(C7)).json()["head"]
    assert head == item


async def test_one_that_has_ended_waits_for_nothing_and_an_unknown_one_is_404(web: Web) -> None:
    done = (await web.client.post("/carts/c-7/add", json="tea")).headers["invocation-id"]
    assert (await web.client.get(f"/invocations/{done}/why")).json() == {"items": []}
    unknown = new_id("inv", at_ms=1, entropy=bytes(10))
    problem(await web.client.get(f"/invocations/{unknown}/why"), 404, "not-found")
    problem(await web.client.get("/invocations/inv_1x/why"), 400, "malformed-id")


async def test_while_the_store_is_down_an_edit_is_in_doubt_and_said_to_be(
    web: Web, logged: list[EventDict]
) -> None:
    await web.client.post(f"{C7}/pause")
    web.store.slow_s = timedelta(minutes=1).total_seconds()
    problem(await web.client.patch(f"{C7}/state", json={"total": 1}), 503, "in-doubt")
    web.store.slow_s = 0
    [line] = [line for line in logged if line.get("act") == "edit"]
    assert line["outcome"] == "in doubt"
