"""What a token sees of an app that seals its values, with and without the scope `payloads`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest_asyncio

from awakeables.testing.bench import until
from support.keys import ring
from unit.web.harness import Web, serving
from unit.web.test_acts import tokens_of
from unit.web.test_completing import JSON, problem
from unit.web.test_guard import bearer

SECRET = "s3cr3t"


@pytest_asyncio.fixture
async def sealed(tmp_path: Path) -> AsyncIterator[Web]:
    scopes = {"shop": "call", "looks": "read", "does": "operate", "answers": "complete"}
    path = tokens_of(tmp_path / "t.toml", **scopes)
    both = tokens_of(tmp_path / "both.toml", sees="read").read_text().replace('"read"', '"read", "payloads"')
    path.write_text(path.read_text() + both)
    async with serving(tokens=path, codec=ring("2026-11")) as web:
        yield web


async def everything(web: Web, who: str) -> str:
    """All that a token is shown: each list, and each row."""
    texts = []
    for path in ("/invocations", "/awakeables", "/dead-letters", "/outbox?state=failed"):
        page = await web.client.get(path, headers=bearer(who))
        assert page.status_code == 200, page.text
        texts.append(page.text)
        for item in page.json()["items"]:
            row = await web.client.get(f"{path.partition('?')[0]}/{item['id']}", headers=bearer(who))
            assert row.status_code == 200, row.text
            texts.append(row.text)
    for path in ("/objects/carts/c-7", "/objects/carts/c-7/state"):
        texts.append((await web.client.get(path, headers=bearer(who))).text)
    return "\n".join(texts)


async def begin_everything(web: Web) -> None:
    """Leave the secret wherever a value can be."""
    headers = bearer("shop") | JSON
    await web.client.post("/orders/anything", json={"card": SECRET}, headers=headers)
    awakeable_id = await web.awakeable_of("wait")
    answer = f"/awakeables/{awakeable_id}/resolve"
    await web.client.post(answer, json=SECRET, headers=bearer("answers"))
    other = await web.awakeable_of("wait")
    refusal = {"reason": SECRET, "code": 409, "details": {"why": SECRET}}
    await web.client.post(f"/awakeables/{other}/reject", json=refusal, headers=bearer("answers"))
    third = await web.awakeable_of("wait")
    await web.client.post(f"/awakeables/{third}/heartbeat", json=SECRET, headers=bearer("answers") | JSON)
    await web.client.post("/carts/c-7/add", json=SECRET, headers=headers)
    web.add_dead_letter(source="s", offset=1, value=SECRET.encode())
    web.add_refused(value=SECRET.encode())
    await until(lambda: web.store.tables.states)


async def test_without_the_scope_payloads_a_token_sees_sizes_instead_of_values(sealed: Web) -> None:
    await begin_everything(sealed)
    shown = await everything(sealed, "looks")
    assert SECRET not in shown
    assert shown.count("bytes)") > 8
    assert (await everything(sealed, "sees")).count(SECRET) > 8


async def test_an_app_without_a_codec_shows_its_values_to_the_scope_read(
    tmp_path: Path,
) -> None:
    tokens = tokens_of(tmp_path / "t.toml", shop="call", looks="read", answers="complete")
    async with serving(tokens=tokens) as web:
        await begin_everything(web)
        assert (await everything(web, "looks")).count(SECRET) > 8


async def test_results_and_journals_of_others_need_the_scope_payloads(sealed: Web) -> None:
    begun = await sealed.client.post("/orders/anything", json=SECRET, headers=bearer("shop") | JSON)
    assert begun.json() == SECRET
    [invocation_id] = sealed.store.tables.invocations
    for verb in ("output", "attach", "journal"):
        path = f"/invocations/{invocation_id}/{verb}"
        refused = problem(await sealed.client.get(path, headers=bearer("looks")), 403, "insufficient-scope")
        assert refused["scope"] == "payloads"
        assert SECRET in (await sealed.client.get(path, headers=bearer("sees"))).text
    own = await sealed.client.get(f"/invocations/{invocation_id}/output", headers=bearer("shop"))
    assert own.json() == SECRET


async def test_an_answer_that_another_gave_is_not_shown_without_it(sealed: Web) -> None:
    awakeable_id = await sealed.awakeable_of("wait")
    path = f"/awakeables/{awakeable_id}/resolve"
    await sealed.client.post(path, json=SECRET, headers=bearer("answers"))
    told: Any = problem(await sealed.client.post(path, json="x", headers=bearer("answers")), 409, "conflict")
    assert told["outcome"] is None
    assert msgspec.json.encode(SECRET).decode() not in str(told)
