"""Whose an invocation is, and who did what: ownership and the audit of operators' acts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.typing import EventDict

from awakeables.telemetry import events
from awakeables.testing.bench import until
from support.logs import heard
from unit.web.harness import Web, serving
from unit.web.test_completing import JSON, problem
from unit.web.test_guard import bearer, guarded

__all__ = ["guarded"]


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with heard() as logs:
        yield logs


# ── what is one's own ───────────────────────────────────────────────────────────────────────


def tokens_of(path: Path, **scopes: str) -> Path:
    tables = (
        f'[{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\nscopes = ["{scope}"]\n'
        for name, scope in scopes.items()
    )
    path.write_text("".join(tables))
    path.chmod(0o600)
    return path


async def test_case_o5_a_caller_may_follow_its_own_location_and_no_other(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "t.toml", shop="call", desk="call:orders", other="call:refunds", ops="read")
    async with serving(tokens=tokens) as web:
        for name in ("shop", "desk"):
            begun = await web.client.post("/orders/wait", headers=bearer(name) | JSON | {"prefer": "wait=0"})
            assert begun.status_code == 202
            path = begun.headers["location"].removesuffix("/output")
            for who, seen in {"shop": name, "desk": name, "other": "", "ops": "ops"}.items():
                for verb in ("output", "attach"):
                    looked = await web.client.get(
                        f"{path}/{verb}", headers=bearer(who) | {"prefer": "wait=0"}
                    )
                    assert looked.status_code == (202 if seen == who else 403), (name, who, verb)
            for elsewhere in (path, "/invocations", "/awakeables", "/metrics"):
                problem(await web.client.get(elsewhere, headers=bearer(name)), 403, "insufficient-scope")
        problem(await web.client.post("/orders/wait", headers=bearer("other")), 403, "insufficient-scope")


async def test_case_o5_what_somebody_else_began_stays_theirs_after_an_operator_s_act(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "t.toml", shop="call", ops="operate")
    async with serving(tokens=tokens) as web:
        begun = await web.client.post("/orders/misuse", headers=bearer("shop"))
        path = begun.headers["location"]
        [invocation_id] = web.store.tables.invocations
        for _ in range(12):
            await web.client.post(path.replace("output", "resume"), headers=bearer("ops"))
            await until(lambda: web.store.tables.invocations[invocation_id].status == "paused")
        assert (await web.client.get(path, headers=bearer("shop"))).status_code == 202
        row = web.store.tables.invocations[invocation_id]
        assert [(act.act, act.by) for act in row.acts] == [("begin", "shop")] + [("resume", "ops")] * 9


async def test_case_o5_an_idempotency_key_does_not_open_what_another_token_began(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "t.toml", shop="call", desk="call:orders")
    async with serving(tokens=tokens) as web:
        keyed = {"idempotency-key": "k", "prefer": "wait=0"}
        begun = await web.client.post("/orders/wait", headers=bearer("shop") | keyed)
        again = await web.client.post("/orders/wait", headers=bearer("shop") | keyed)
        assert begun.json()["invocation_id"] == again.json()["invocation_id"]
        for path in ("/orders/wait", "/orders/wait/send"):
            refused = await web.client.post(path, headers=bearer("desk") | keyed)
            detail = problem(refused, 403, "insufficient-scope")["detail"]
            assert "it was begun by another caller than 'desk'" in detail
            assert begun.json()["invocation_id"] not in refused.text
        assert len(web.store.tables.invocations) == 1


async def test_case_o5_what_was_begun_without_a_token_is_nobody_s_own(guarded: Web) -> None:
    invocation_id = await guarded.begin("greet")
    response = await guarded.client.get(f"/invocations/{invocation_id}/output", headers=bearer("call"))
    problem(response, 403, "insufficient-scope")


async def test_case_o5_a_token_that_completes_is_not_shown_what_others_answered(guarded: Web) -> None:
    awakeable_id = await guarded.awakeable_of("wait")
    path = f"/awakeables/{awakeable_id}/resolve"
    await guarded.client.post(path, json="hidden", headers=bearer("all"))
    told = problem(await guarded.client.post(path, json="x", headers=bearer("complete")), 409, "conflict")
    assert told["outcome"] is None
    told = problem(await guarded.client.post(path, json="x", headers=bearer("all")), 409, "conflict")
    assert told["outcome"] == {"status": "resolved", "value": "hidden"}


async def test_case_o5_a_token_for_metrics_sees_nothing_else(guarded: Web) -> None:
    assert (await guarded.client.get("/metrics", headers=bearer("metrics"))).status_code == 200
    assert (await guarded.client.get("/metrics", headers=bearer("read"))).status_code == 200
    problem(await guarded.client.get("/invocations", headers=bearer("metrics")), 403, "insufficient-scope")


# ── who did it ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("act", ["resume", "cancel", "kill"])
async def test_case_o6_an_operator_s_act_is_logged_with_the_token_s_name_and_kept_with_the_row(
    guarded: Web, act: str, logged: list[EventDict]
) -> None:
    begun = await guarded.client.post("/orders/misuse", headers=bearer("all"))
    invocation_id = begun.json()["invocation_id"]
    response = await guarded.client.post(f"/invocations/{invocation_id}/{act}", headers=bearer("operate"))
    assert response.status_code in (200, 202)
    [line] = [line for line in logged if line["event"] == events.OPERATOR_ACTED]
    told = {"act": act, "by": "operate", "outcome": "done", "invocation_id": invocation_id}
    assert line.items() >= told.items()
    shown = await guarded.client.get(f"/invocations/{invocation_id}", headers=bearer("read"))
    assert [(one["act"], one["by"]) for one in shown.json()["acts"]] == [("begin", "all"), (act, "operate")]


async def test_case_o6_resends_and_answers_are_logged_too(guarded: Web, logged: list[EventDict]) -> None:
    letter = guarded.add_dead_letter(source="s", offset=1, value=b"x")
    refused = guarded.add_refused()
    awakeable_id, other_id = await guarded.awakeable_of("wait"), await guarded.awakeable_of("wait")
    for path, token in (
        (f"/dead-letters/{letter}/resend", "operate"),
        (f"/outbox/{refused}/resend", "operate"),
        (f"/awakeables/{awakeable_id}/resolve", "complete"),
        (f"/awakeables/{other_id}/reject", "complete"),
    ):
        assert (await guarded.client.post(path, headers=bearer(token))).is_success, path
    lines = [line for line in logged if line["event"] == events.OPERATOR_ACTED]
    assert [(line["act"], line["by"]) for line in lines] == [
        ("resend", "operate"),
        ("resend", "operate"),
        ("resolve", "complete"),
        ("reject", "complete"),
    ]
    shown = (await guarded.client.get(f"/dead-letters/{letter}", headers=bearer("read"))).json()
    assert [(one["act"], one["by"]) for one in shown["acts"]] == [("resend", "operate")]
    row = guarded.store.tables.awakeables[awakeable_id]
    assert row.settled_by is not None
    assert row.settled_by.startswith("http:evt_1")
    assert row.settled_by.endswith(":complete")


async def test_case_o6_a_purge_is_logged_with_what_it_was_of(guarded: Web, logged: list[EventDict]) -> None:
    guarded.add_dead_letter(source="s", offset=1)
    path = "/dead-letters/purge?code=invalid&older_than=1h"
    assert (await guarded.client.post(path, headers=bearer("operate"))).is_success
    [line] = [line for line in logged if line["event"] == events.OPERATOR_ACTED]
    told = {"act": "purge", "by": "operate", "outcome": "done", "code": "invalid", "older_than": "1:00:00"}
    assert line.items() >= told.items()


async def test_case_o6_without_tokens_an_act_comes_from_the_loopback(
    web: Web, logged: list[EventDict]
) -> None:
    invocation_id = await web.begin("wait")
    await web.client.post(f"/invocations/{invocation_id}/kill")
    [line] = [line for line in logged if line["event"] == events.OPERATOR_ACTED]
    assert (line["act"], line["by"]) == ("kill", "loopback")


async def test_case_o6_a_refused_act_is_none_and_one_in_doubt_is_said_to_be(
    web: Web, logged: list[EventDict]
) -> None:
    invocation_id = await web.begin("greet")
    await until(lambda: web.store.tables.invocations[invocation_id].result)
    problem(await web.client.post(f"/invocations/{invocation_id}/kill"), 409, "not-possible")
    assert [line for line in logged if line["event"] == events.OPERATOR_ACTED] == []
    waiting = await web.begin("wait")
    web.store.slow_s = 60
    problem(await web.client.post(f"/invocations/{waiting}/kill"), 503, "in-doubt")
    [line] = [line for line in logged if line["event"] == events.OPERATOR_ACTED]
    assert (line["act"], line["outcome"]) == ("kill", "in doubt")
    web.store.slow_s = 0
