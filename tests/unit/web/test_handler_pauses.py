"""`/pauses`: handlers and services are paused, listed and resumed, and each deed is in the audit log."""

from __future__ import annotations

import pytest

from awakeables.telemetry import events
from awakeables.testing.bench import until
from support.logs import heard
from unit.web.harness import Web
from unit.web.test_completing import problem
from unit.web.test_guard import bearer, guarded

__all__ = ["guarded"]


@pytest.mark.parametrize("path", ["orders", "orders/wait"])
async def test_what_is_paused_is_listed_until_it_is_resumed(web: Web, path: str) -> None:
    with heard() as logs:
        paused = await web.client.post(f"/pauses/{path}/pause")
        again = await web.client.post(f"/pauses/{path}/pause")
        assert (paused.status_code, paused.json()) == (200, again.json())
        assert {"target": path, "by": "loopback"}.items() <= paused.json().items()
        assert (await web.client.get("/pauses")).json() == {"items": [paused.json()]}
        assert (await web.client.post(f"/pauses/{path}/resume")).json() == {"resumed": [path]}
        assert (await web.client.post(f"/pauses/{path}/resume")).json() == {"resumed": []}
        assert (await web.client.get("/pauses")).json() == {"items": []}
    acts = [each["act"] for each in logs if each["event"] == events.OPERATOR_ACTED]
    assert acts == ["pause", "pause", "resume", "resume"]


async def test_why_says_that_the_handler_is_paused(web: Web) -> None:
    await web.client.post("/pauses/orders/pause")
    begun = await web.client.post("/orders/wait/send", json=None)
    invocation_id = begun.json()["invocation_id"]
    [item] = (await web.client.get(f"/invocations/{invocation_id}/why")).json()["items"]
    assert (item["invocation"]["status"], item["pause"]["target"]) == ("pending", "orders")
    await web.client.post("/pauses/orders/resume")
    await until(lambda: web.store.tables.invocations[invocation_id].status == "suspended")
    [item] = (await web.client.get(f"/invocations/{invocation_id}/why")).json()["items"]
    assert item["pause"] is None


async def test_one_of_a_paused_service_is_not_resumed_alone(web: Web) -> None:
    await web.client.post("/pauses/orders/pause")
    refused = await web.client.post("/pauses/orders/wait/resume")
    assert (
        "the whole service orders is paused: resume that" in problem(refused, 409, "not-possible")["detail"]
    )


@pytest.mark.parametrize("act", ["pause", "resume"])
async def test_a_typo_is_answered_with_what_there_is(web: Web, act: str) -> None:
    assert "there are: " in problem(await web.client.post(f"/pauses/order/{act}"), 404, "not-found")["detail"]
    assert (
        "it has: " in problem(await web.client.post(f"/pauses/orders/wiat/{act}"), 404, "not-found")["detail"]
    )


async def test_pausing_needs_a_token_that_may_operate_and_is_named(guarded: Web) -> None:
    refused = await guarded.client.post("/pauses/orders/pause", headers=bearer("read"))
    problem(refused, 403, "insufficient-scope")
    paused = await guarded.client.post("/pauses/orders/pause", headers=bearer("operate"))
    assert paused.json()["by"] == "operate"
    assert (await guarded.client.get("/pauses", headers=bearer("read"))).json()["items"]
