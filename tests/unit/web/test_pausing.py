"""`POST /invocations/{id}/pause` and `/restart`: every answer, and what is shown of them afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from structlog.typing import EventDict

from awakeables.core.ids import parse_id
from awakeables.telemetry import events
from awakeables.testing.bench import until
from support.ids import new_id
from support.logs import heard
from unit.web.harness import Web
from unit.web.test_completing import problem
from unit.web.test_guard import bearer, guarded

__all__ = ["guarded"]

NOBODY = new_id("inv", at_ms=1, entropy=bytes(10))
SOMETHING = new_id("prom", at_ms=1, entropy=bytes(10))
LATER = {"prefer": "wait=0"}


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with heard() as logs:
        yield logs


async def waiting(web: Web) -> str:
    """One that waits for its awakeable, and is not running any more."""
    invocation_id = web.store.tables.awakeables[await web.awakeable_of("wait")].invocation_id
    await until(lambda: web.store.tables.invocations[invocation_id].status == "suspended")
    return invocation_id


async def ended(web: Web) -> str:
    """One whose journal is its input, its awakeable, and 7, the outcome."""
    awakeable_id = await web.awakeable_of("wait")
    await web.client.post(f"/awakeables/{awakeable_id}/resolve", json=7)
    invocation_id = web.store.tables.awakeables[awakeable_id].invocation_id
    await until(lambda: web.store.tables.invocations[invocation_id].status == "completed")
    return invocation_id


# ── pause ───────────────────────────────────────────────────────────────────────────────────


async def test_one_that_waits_is_paused_at_once_and_repeating_that_changes_nothing(web: Web) -> None:
    invocation_id = await waiting(web)
    for _ in range(2):
        response = await web.client.post(f"/invocations/{invocation_id}/pause")
        assert response.status_code == 202
        told = response.json()
        assert (told["id"], told["status"], told["pausing"]) == (invocation_id, "paused", None)
        assert told["failure"]["kind"] == "by an operator"
        assert told["reason"].startswith("paused, by an operator: ")
    shown = (await web.client.get(f"/invocations/{invocation_id}")).json()
    assert [(act["act"], act["by"]) for act in shown["acts"]] == [("pause", "loopback")]
    resumed = await web.client.post(f"/invocations/{invocation_id}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (200, "pending")


async def test_a_pause_that_has_not_come_yet_is_shown_until_it_is_taken_back(web: Web) -> None:
    ids = []
    for _ in range(2):
        begun = await web.client.post("/carts/c-7/checkout", headers=LATER)
        ids.append(begun.json()["invocation_id"])
    path = f"/invocations/{ids[1]}"
    assert (await web.client.get(path)).json()["pausing"] is None
    told = (await web.client.post(f"{path}/pause")).json()
    assert (told["status"], told["pausing"]) == ("queued", told["updated"])
    [listed] = (await web.client.get("/invocations?status=queued")).json()["items"]
    assert listed["pausing"] == (await web.client.get(path)).json()["pausing"] == told["pausing"]
    assert (await web.client.get(f"{path}/why")).json()["items"][0]["invocation"] == listed
    resumed = (await web.client.post(f"{path}/resume")).json()
    assert (resumed["status"], resumed["pausing"]) == ("queued", None)
    await web.client.post(f"{path}/pause")
    await web.client.post(f"/invocations/{ids[0]}/kill")
    await until(lambda: web.store.tables.invocations[ids[1]].status == "paused")
    assert (await web.client.get(path)).json()["pausing"] is None


async def test_callers_that_wait_hear_of_a_pause(web: Web) -> None:
    invocation_id = await waiting(web)
    attached = asyncio.ensure_future(web.client.get(f"/invocations/{invocation_id}/attach"))
    await until(lambda: web.waiters)
    await web.client.post(f"/invocations/{invocation_id}/pause")
    response = await attached
    assert (response.status_code, response.json()["status"]) == (202, "paused")
    assert response.headers["retry-after"] == "60"


async def test_one_that_has_ended_can_t_be_paused(web: Web) -> None:
    invocation_id = await ended(web)
    refused = problem(await web.client.post(f"/invocations/{invocation_id}/pause"), 409, "not-possible")
    assert refused["detail"] == f"invocation {invocation_id} has ended; there is nothing to pause"


# ── restart ─────────────────────────────────────────────────────────────────────────────────


async def test_a_restart_is_answered_with_the_new_invocation_and_where_to_poll(web: Web) -> None:
    older = await ended(web)
    response = await web.client.post(f"/invocations/{older}/restart")
    assert response.status_code == 202
    newer = response.json()["invocation_id"]
    assert response.json() == {"invocation_id": newer, "created": True}
    assert newer != older
    parse_id(newer, "inv")
    assert response.headers["location"] == f"/invocations/{newer}/output"
    assert response.headers["retry-after"] == "1"
    assert response.headers["invocation-id"] == newer
    await until(lambda: web.bench.awakeables(newer))
    first, again = [(await web.client.get(f"/invocations/{each}")).json() for each in (older, newer)]
    assert (first["restart_of"], again["restart_of"]) == (None, older)
    assert again["journal"][0]["entry"]["restart_of"] == older
    [act] = first["acts"]
    assert (act["act"], act["by"], act["into"]) == ("restart", "loopback", newer)
    [act] = again["acts"]
    assert (act["act"], act["by"]) == ("restart", "loopback")
    assert "into" not in act
    assert (await web.client.get(f"/invocations/{older}/output")).json() == 7


async def test_a_restart_from_an_entry_keeps_the_journal_up_to_it(web: Web) -> None:
    older = await ended(web)
    response = await web.client.post(f"/invocations/{older}/restart?from_entry=2")
    newer = response.json()["invocation_id"]
    assert (await web.client.get(f"/invocations/{newer}/attach")).json() == 7
    first, again = [(await web.client.get(f"/invocations/{each}")).json() for each in (older, newer)]
    assert again["journal"][1:] == first["journal"][1:]
    assert again["journal"][0]["entry"]["kept"] == 2


async def test_one_that_is_paused_is_killed_by_its_restart_and_its_callers_hear_of_it(web: Web) -> None:
    older = await waiting(web)
    await web.client.post(f"/invocations/{older}/pause")
    assert (await web.client.post(f"/invocations/{older}/restart")).status_code == 202
    failed = problem(await web.client.get(f"/invocations/{older}/attach"), 409, "handler-failed")
    assert failed["reason"] == "the invocation was killed"
    shown = (await web.client.get(f"/invocations/{older}")).json()
    assert (shown["status"], shown["ended"]) == ("completed", "cancelled")
    assert [act["act"] for act in shown["acts"]] == ["pause", "restart"]


async def test_one_that_is_open_can_t_be_restarted(web: Web) -> None:
    invocation_id = await waiting(web)
    refused = problem(await web.client.post(f"/invocations/{invocation_id}/restart"), 409, "not-possible")
    assert refused["detail"] == (f"invocation {invocation_id} is suspended: pause, cancel or kill it first")
    assert len(web.store.tables.invocations) == 1


async def test_a_cut_that_is_not_possible_is_refused_with_one_that_is(web: Web) -> None:
    older = await ended(web)
    [awakeable] = web.bench.awakeables(older)
    waits = f"awakeable {awakeable.id} waits there for what comes later"
    for entry, why in (
        (1, f"{waits}; the last entry that is possible is 0"),
        (3, "its journal has the entries 0 to 2"),
        (10**18 - 1, "its journal has the entries 0 to 2"),
    ):
        response = await web.client.post(f"/invocations/{older}/restart?from_entry={entry}")
        refused = problem(response, 409, "not-possible")["detail"]
        assert refused == f"invocation {older} can't be restarted from entry {entry}: {why}"
    assert web.store.tables.invocations.keys() == {older}


@pytest.mark.parametrize("entry", ["abc", "-1", "1.5", "", "%C2%B2", "1" * 19])
async def test_an_entry_that_is_no_number_is_a_bad_request(web: Web, entry: str) -> None:
    response = await web.client.post(f"/invocations/{await ended(web)}/restart?from_entry={entry}")
    refused = problem(response, 400, "bad-request")["detail"]
    assert refused.startswith("from_entry must be a whole number, 0 or more, not ")
    assert len(web.store.tables.invocations) == 1


# ── both ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("act", ["pause", "restart"])
async def test_ids_that_are_unknown_are_404_and_malformed_ones_400_and_parameters_400(
    web: Web, act: str
) -> None:
    unknown = problem(await web.client.post(f"/invocations/{NOBODY}/{act}"), 404, "not-found")
    assert NOBODY in unknown["detail"]
    for malformed in ("inv_1x", SOMETHING):
        problem(await web.client.post(f"/invocations/{malformed}/{act}"), 400, "malformed-id")
    told = problem(await web.client.post(f"/invocations/{NOBODY}/{act}?from=2"), 400, "bad-request")
    assert "unknown query parameter 'from'" in told["detail"]
    wrong = await web.client.get(f"/invocations/{NOBODY}/{act}")
    assert problem(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize("act", ["pause", "restart"])
async def test_a_token_needs_the_scope_to_operate_even_for_one_s_own(
    guarded: Web, act: str, logged: list[EventDict]
) -> None:
    begun = await guarded.client.post("/orders/misuse", headers=bearer("call"))
    path = f"/invocations/{begun.json()['invocation_id']}/{act}"
    for scope in ("call", "read", "complete", "metrics"):
        refused = problem(await guarded.client.post(path, headers=bearer(scope)), 403, "insufficient-scope")
        assert refused["scope"] == "operate"
    problem(await guarded.client.post(path), 401, "unauthorized")
    assert [line for line in logged if line["event"] == events.OPERATOR_ACTED] == []
    assert len(guarded.store.tables.invocations) == 1
    assert (await guarded.client.post(path, headers=bearer("operate"))).status_code == 202


async def test_case_o6_both_are_logged_and_kept_with_the_token_s_name(
    guarded: Web, logged: list[EventDict]
) -> None:
    older = await waiting(guarded)
    path, operator = f"/invocations/{older}", bearer("operate")
    assert (await guarded.client.post(f"{path}/pause", headers=operator)).is_success
    assert (await guarded.client.post(f"{path}/restart?from_entry=9", headers=operator)).is_client_error
    newer = (await guarded.client.post(f"{path}/restart", headers=operator)).json()["invocation_id"]
    pause, restart = [line for line in logged if line["event"] == events.OPERATOR_ACTED]
    told = {"by": "operate", "outcome": "done", "invocation_id": older}
    assert pause.items() >= (told | {"act": "pause"}).items()
    assert restart.items() >= (told | {"act": "restart", "from_entry": 0}).items()
    rows = guarded.store.tables.invocations
    assert [(act.act, act.by, act.into) for act in rows[older].acts] == [
        ("pause", "operate", None),
        ("restart", "operate", newer),
    ]
    assert [(act.act, act.by) for act in rows[newer].acts] == [("restart", "operate")]


@pytest.mark.parametrize("act", ["pause", "restart"])
async def test_case_o6_one_in_doubt_is_said_to_be(web: Web, act: str, logged: list[EventDict]) -> None:
    older = await (waiting if act == "pause" else ended)(web)
    logged.clear()
    web.store.slow_s = 60
    told = problem(await web.client.post(f"/invocations/{older}/{act}"), 503, "in-doubt")
    assert f"may or may not {'be paused' if act == 'pause' else 'have been restarted'}" in told["detail"]
    [line] = [line for line in logged if line["event"] == events.OPERATOR_ACTED]
    assert (line["act"], line["outcome"]) == (act, "in doubt")
    web.store.slow_s = 0


async def test_a_restarted_invocation_belongs_to_whom_the_older_one_belongs_to(guarded: Web) -> None:
    """Hard case O6: its result is told to the token that began the older one, and not to another."""
    begun = await guarded.client.post("/orders/misuse", headers=bearer("call"))
    path = f"/invocations/{begun.json()['invocation_id']}/restart"
    newer = (await guarded.client.post(path, headers=bearer("operate"))).json()["invocation_id"]
    output = await guarded.client.get(f"/invocations/{newer}/output", headers=bearer("call"))
    assert output.status_code == 202


@pytest.mark.parametrize("act", ["pause", "restart"])
async def test_callers_hear_of_what_was_in_doubt_and_has_been_done(web: Web, act: str) -> None:
    older = await waiting(web)
    if act == "restart":
        await web.api.pause(older)
    ended = web.api.result(older) if act == "restart" else web.api.result_or_pause(older)
    attached = asyncio.ensure_future(ended)
    await until(lambda: web.waiters)
    web.store.slow_s = 60
    problem(await web.client.post(f"/invocations/{older}/{act}"), 503, "in-doubt")
    web.store.slow_s = 0
    await asyncio.sleep(200)
    assert web.store.tables.invocations[older].status == ("paused" if act == "pause" else "completed")
    assert attached.done()
