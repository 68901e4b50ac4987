"""Workflows over HTTP: begun once per key, attached to, signalled, and deleted."""

from __future__ import annotations

import asyncio

from awakeables.testing.bench import until
from unit.web.harness import Web
from unit.web.test_completing import problem

RUN = "/signups/k-1/run"


async def test_a_run_is_begun_once_and_both_callers_get_its_result(web: Web) -> None:
    first = asyncio.ensure_future(web.client.post(RUN, json="a@b"))
    await until(lambda: web.store.tables.invocations)
    second = asyncio.ensure_future(web.client.post(RUN, json="a@b"))
    sent = await web.client.post(f"{RUN}/send", json="a@b")
    assert (sent.status_code, sent.json()["created"]) == (202, False)
    assert (await web.client.post("/signups/k-1/clicked")).json() == "accepted"
    responses = [await first, await second]
    assert [response.json() for response in responses] == [True, True]
    ids = {response.headers["invocation-id"] for response in responses}
    assert ids == {sent.json()["invocation_id"]}
    told = [response.headers.get("awakeables-attached") for response in (*responses, sent)]
    assert told == [None, "true", "true"]


async def test_a_caller_that_joins_a_run_is_told_so_however_that_ends(web: Web) -> None:
    begun = (await web.client.post(f"{RUN}/send", json="a@b")).json()["invocation_id"]
    waiting = await web.client.post(RUN, json="a@b", headers={"prefer": "wait=0"})
    assert (waiting.status_code, waiting.headers["awakeables-attached"]) == (202, "true")
    await web.client.post(f"/invocations/{begun}/kill")
    killed = await web.client.post(RUN, json="a@b")
    problem(killed, 409, "handler-failed")
    assert killed.headers["awakeables-attached"] == "true"
    assert killed.headers["invocation-id"] == begun


async def test_another_input_and_an_idempotency_key_are_refused(web: Web) -> None:
    begun = (await web.client.post(f"{RUN}/send", json="a@b")).json()["invocation_id"]
    conflict = problem(await web.client.post(f"{RUN}/send", json="c@d"), 422, "idempotency-conflict")
    detail = f"signups/k-1 has a run with another input, {begun}: it is begun once per key"
    assert conflict["detail"] == detail
    keyed = await web.client.post(RUN, json="a@b", headers={"idempotency-key": "x"})
    assert "leave out the idempotency key" in problem(keyed, 422, "invalid-input")["detail"]


async def test_other_handlers_need_a_run(web: Web) -> None:
    for path, prefer in (("clicked", "wait=60"), ("clicked", "wait=0"), ("clicked/send", "")):
        response = await web.client.post(f"/signups/k-1/{path}", headers={"prefer": prefer})
        detail = problem(response, 404, "not-begun")["detail"]
        assert detail == "signups/k-1 has not begun: call its run first"
    problem(await web.client.post("/signups/k-1/clicks"), 404, "not-found")
    assert web.store.tables.invocations == {}


async def test_an_ended_run_is_deleted_and_its_key_is_free(web: Web) -> None:
    begun = (await web.client.post(f"{RUN}/send", json="a@b")).json()["invocation_id"]
    open_ = problem(await web.client.post(f"/invocations/{begun}/purge"), 409, "not-possible")
    assert "cancel or kill it first" in open_["detail"]
    await web.client.post(f"/invocations/{begun}/kill")
    restart = problem(await web.client.post(f"/invocations/{begun}/restart"), 409, "not-possible")
    assert f"awakeables purge {begun}" in restart["detail"]
    assert (await web.client.post(f"/invocations/{begun}/purge")).json() == {"count": 1}
    problem(await web.client.get(f"/invocations/{begun}"), 404, "not-found")
    problem(await web.client.post(f"/invocations/{begun}/purge"), 404, "not-found")
    again = (await web.client.post(f"{RUN}/send", json="c@d")).json()
    assert again["created"]


async def test_what_waits_for_a_promise_is_shown(web: Web) -> None:
    begun = (await web.client.post(f"{RUN}/send", json="a@b")).json()["invocation_id"]
    await until(lambda: web.store.tables.invocations[begun].status == "suspended")
    [item] = (await web.client.get(f"/invocations/{begun}/why")).json()["items"]
    [wait] = item["waits"]
    assert (wait["promise"], wait["invocation"], wait["type"]) == ("verified", None, None)
    assert (await web.client.get("/awakeables")).json()["items"] == []
