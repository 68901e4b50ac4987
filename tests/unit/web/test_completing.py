"""`POST /awakeables/{id}/resolve` and `/reject`: every answer of the table, to the letter."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest

from awakeables.core.outcomes import Rejection, Resolution
from awakeables.testing.bench import pass_time, until
from awakeables.web.app import WebSettings
from support.ids import new_id
from unit.web.harness import MAX_BODY_BYTES, RETENTION_MS, Web, serving

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
TEXT = {"content-type": "text/plain"}
TEN_MB = 10 * 1024 * 1024


def stored(web: Web, awakeable_id: str) -> Resolution | Rejection:
    outcome = web.store.tables.awakeables[awakeable_id].outcome
    assert isinstance(outcome, Resolution | Rejection)
    return outcome


def problem(response: httpx.Response, status: int, type_: str) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["type"]) == (status, type_), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


async def test_curl_resolves_as_the_readme_says(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    response = await web.client.post(
        f"/restate/awakeables/{awakeable_id}/resolve", headers=JSON, content=b'{"hello": "world"}'
    )
    assert response.status_code == 200
    answer = response.json()
    assert (answer["verdict"], answer["awakeable_id"]) == ("accepted", awakeable_id)
    assert stored(web, awakeable_id).content == b'{"hello": "world"}'  # type: ignore[union-attr]


async def test_curl_rejects_as_the_readme_says(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    response = await web.client.post(
        f"/restate/awakeables/{awakeable_id}/reject", headers=TEXT, content=b"Very bad error!"
    )
    assert response.status_code == 200
    assert stored(web, awakeable_id) == Rejection(reason="Very bad error!")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",) * 2,
        ("00-aa-bb-01", None),
        (None, None),
    ],
)
async def test_the_trace_of_a_completion_is_shown_with_its_verdict(
    web: Web, sent: str | None, kept: str | None
) -> None:
    awakeable_id = await web.awakeable_of("wait")
    headers = JSON if sent is None else JSON | {"Traceparent": sent}
    await web.client.post(f"/awakeables/{awakeable_id}/resolve", headers=headers, content=b"1")
    shown = (await web.client.get(f"/awakeables/{awakeable_id}")).json()
    assert [told["traceparent"] for told in shown["first"]] == [kept]


@pytest.mark.parametrize("path", ["/restate/awakeables", "/restate/a", "/awakeables"])
async def test_all_three_paths_complete(web: Web, path: str) -> None:
    for verb in ("resolve", "reject"):
        awakeable_id = await web.awakeable_of("wait")
        response = await web.client.post(f"{path}/{awakeable_id}/{verb}")
        assert response.json()["verdict"] == "accepted"


@pytest.mark.parametrize("value", [b"18446744073709551616", b"0.1000", b'{"a": 1e2, "a": 1.0}', b'"\\u0000"'])
async def test_a_value_is_kept_to_the_letter(web: Web, value: bytes) -> None:
    awakeable_id = await web.awakeable_of("wait")
    content = b" \n" + value + b"\n"
    response = await web.client.post(f"/awakeables/{awakeable_id}/resolve", headers=JSON, content=content)
    assert response.status_code == 200
    assert stored(web, awakeable_id) == Resolution.of_json(value)
    shown = await web.client.get(f"/awakeables/{awakeable_id}")
    assert value in shown.content


async def test_an_absent_body_resolves_with_null(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    assert (await web.client.post(f"/awakeables/{awakeable_id}/resolve")).status_code == 200
    assert stored(web, awakeable_id) == Resolution.of_json(b"null")


@pytest.mark.parametrize("sent", [FORM, {}, {"content-type": "application/vnd.parcel+json; charset=utf-8"}])
async def test_json_is_taken_by_type_with_curls_form_type_and_without_type(
    web: Web, sent: dict[str, str]
) -> None:
    awakeable_id = await web.awakeable_of("wait")
    response = await web.client.post(f"/awakeables/{awakeable_id}/resolve", headers=sent, content=b'{"a":1}')
    assert response.status_code == 200
    assert stored(web, awakeable_id) == Resolution.of_json(b'{"a":1}')


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (TEXT, b"yes"),
        (FORM, b"hello=world"),
        ({"content-type": "text/xml"}, b"{}"),
        ({"content-encoding": "gzip"}, b"x"),
    ],
)
async def test_a_content_type_other_than_json_is_415_and_the_awakeable_stays_pending(
    web: Web, sent: dict[str, str], body: bytes
) -> None:
    awakeable_id = await web.awakeable_of("wait")
    response = await web.client.post(f"/awakeables/{awakeable_id}/resolve", headers=sent, content=body)
    problem(response, 415, "unsupported-media-type")
    assert web.store.tables.awakeables[awakeable_id].state == "pending"


@pytest.mark.parametrize(
    "body", [b"{", b"NaN", b'"\xff"', b"[" * 5000, b" ", b'"\\ud800"', b"[1e5,-Infinity]"]
)
async def test_a_body_that_is_not_json_is_400_and_the_awakeable_stays_pending(body: bytes) -> None:
    async with serving(WebSettings(max_body_bytes=10_000)) as web:
        awakeable_id = await web.awakeable_of("wait")
        for sent in (JSON, {}):
            response = await web.client.post(
                f"/awakeables/{awakeable_id}/resolve", headers=sent, content=body
            )
            problem(response, 400, "malformed-body")
        assert web.store.tables.awakeables[awakeable_id].state == "pending"


async def test_case_o3_more_json_values_than_the_limit_leave_the_awakeable_pending() -> None:
    many = b"[" + b"[]," * 1000 + b"0]"
    async with serving(WebSettings(max_json_values=1000)) as web:
        awakeable_id, bytes_id = await web.awakeable_of("wait"), await web.awakeable_of("wait_bytes")
        for verb in ("resolve", "reject"):
            response = await web.client.post(f"/awakeables/{awakeable_id}/{verb}", headers=JSON, content=many)
            problem(response, 413, "too-many-values")
        assert web.store.tables.awakeables[awakeable_id].state == "pending"
        response = await web.client.post(f"/awakeables/{bytes_id}/resolve", headers=JSON, content=many)
        assert response.status_code == 200


@pytest.mark.parametrize("handler", ["wait_bytes", "wait_custom"])
async def test_an_awakeable_of_bytes_or_a_custom_serde_takes_any_body_verbatim(
    web: Web, handler: str
) -> None:
    for sent, body in ((JSON, b"{not json "), (TEXT, b"\xff\x00"), ({}, b"")):
        awakeable_id = await web.awakeable_of(handler)
        response = await web.client.post(f"/awakeables/{awakeable_id}/resolve", headers=sent, content=body)
        assert response.status_code == 200, response.text
        assert stored(web, awakeable_id) == Resolution.of_bytes(body)


async def test_a_value_that_does_not_fit_is_422_and_the_awakeable_stays_pending(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait_parcel")
    response = await web.client.post(f"/awakeables/{awakeable_id}/resolve", json={"weight": "heavy"})
    document = problem(response, 422, "invalid")
    assert document["verdict"] == "invalid"
    assert "weight" in document["detail"]
    assert web.store.tables.awakeables[awakeable_id].state == "pending"
    assert (
        await web.client.post(f"/awakeables/{awakeable_id}/resolve", json={"weight": 3})
    ).status_code == 200


async def test_a_repeat_gets_duplicate_and_another_answer_conflict_with_the_stored_outcome(
    web: Web,
) -> None:
    awakeable_id = await web.awakeable_of("wait")
    url = f"/awakeables/{awakeable_id}"
    await web.client.post(f"{url}/resolve", headers=JSON, content=b'{"exact": 1.0}')
    again = await web.client.post(f"{url}/resolve", headers=JSON, content=b'{ "exact":1.0 }')
    assert (again.status_code, again.json()["verdict"]) == (200, "duplicate")
    other = await web.client.post(f"{url}/resolve", json={"exact": 2})
    document = problem(other, 409, "conflict")
    assert document["outcome"] == {"status": "resolved", "value": {"exact": 1.0}}
    assert b'{"exact": 1.0}' in other.content
    rejected = await web.client.post(f"{url}/reject", content=b"no")
    problem(rejected, 409, "conflict")


async def test_an_answer_after_the_deadline_is_410(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait_parcel")
    await pass_time(timedelta(hours=4).total_seconds())
    response = await web.client.post(f"/awakeables/{awakeable_id}/resolve", json={"weight": 3})
    document = problem(response, 410, "late")
    assert document["outcome"]["status"] == "timed-out"
    assert document["outcome"]["deadline"] == "2026-01-01T04:00:00.000Z"


async def test_an_awakeable_that_was_purged_is_410_and_one_never_issued_404(web: Web) -> None:
    now_ms = web.engine.clock.now_ms()
    purged = new_id("prom", at_ms=now_ms - RETENTION_MS - 1, entropy=bytes(10))
    unknown = new_id("prom", at_ms=now_ms, entropy=bytes(10))
    for verb in ("resolve", "reject"):
        problem(await web.client.post(f"/awakeables/{purged}/{verb}"), 410, "late")
        problem(await web.client.post(f"/awakeables/{unknown}/{verb}"), 404, "unknown")
    problem(
        await web.client.post(f"/awakeables/{unknown}/resolve", content=b"{", headers=TEXT), 404, "unknown"
    )


async def test_a_mistyped_id_is_400(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    invocation_id = web.store.tables.awakeables[awakeable_id].invocation_id
    for wrong in (awakeable_id[:-1], awakeable_id.upper(), invocation_id, "prom_1", "a%2Fb", "%00"):
        for verb in ("resolve", "reject"):
            problem(await web.client.post(f"/restate/a/{wrong}/{verb}"), 400, "malformed-id")


async def test_a_body_that_is_too_large_is_413(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    fits = b'"' + b"x" * (MAX_BODY_BYTES - 2) + b'"'
    for verb in ("resolve", "reject"):
        response = await web.client.post(
            f"/awakeables/{awakeable_id}/{verb}", headers=JSON, content=fits + b" "
        )
        problem(response, 413, "too-large")
    response = await web.client.post(f"/awakeables/{awakeable_id}/resolve", headers=JSON, content=fits)
    assert response.status_code == 200


async def test_ten_megabytes_are_taken_below_the_limit_and_refused_above_it() -> None:
    value = b'"' + b"x" * (TEN_MB - 2) + b'"'
    for limit, status in ((TEN_MB, 200), (TEN_MB - 1, 413)):
        async with serving(WebSettings(max_body_bytes=limit)) as web:
            awakeable_id = await web.awakeable_of("wait")
            response = await web.client.post(
                f"/awakeables/{awakeable_id}/resolve", headers=JSON, content=value
            )
            assert response.status_code == status
            if status == 200:
                assert stored(web, awakeable_id) == Resolution.of_json(value)
            else:
                told = problem(response, 413, "too-large")["detail"]
                assert told == "the limit is 10,485,759 bytes"
                assert web.store.tables.awakeables[awakeable_id].state == "pending"


async def test_a_rejection_has_reason_code_and_details_to_the_letter(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    body = b'{"reason": "out of stock", "code": 409, "details": {"n": 18446744073709551616}, "later": 1}'
    response = await web.client.post(f"/awakeables/{awakeable_id}/reject", headers=JSON, content=body)
    assert response.status_code == 200
    details = msgspec.Raw(b'{"n": 18446744073709551616}')
    assert stored(web, awakeable_id) == Rejection(reason="out of stock", code=409, details=details)


@pytest.mark.parametrize(
    ("sent", "body", "reason"),
    [
        ({}, b"", "rejected without a reason"),
        (JSON, b"", "rejected without a reason"),
        (JSON, b"{}", "rejected without a reason"),
        ({}, b'{"reason": "as it is"}', '{"reason": "as it is"}'),
        (FORM, b"Very bad error!", "Very bad error!"),
        (TEXT, "Größe".encode(), "Größe"),
    ],
)
async def test_any_other_body_is_the_reason(web: Web, sent: dict[str, str], body: bytes, reason: str) -> None:
    awakeable_id = await web.awakeable_of("wait")
    response = await web.client.post(f"/awakeables/{awakeable_id}/reject", headers=sent, content=body)
    assert response.status_code == 200
    assert stored(web, awakeable_id) == Rejection(reason=reason)


@pytest.mark.parametrize(
    ("sent", "body"),
    [(JSON, b'"no"'), (JSON, b'{"code": "x"}'), (JSON, b'{"details": NaN}'), (JSON, b"{"), (TEXT, b"\xff")],
)
async def test_a_rejection_that_can_not_be_read_is_400(web: Web, sent: dict[str, str], body: bytes) -> None:
    awakeable_id = await web.awakeable_of("wait")
    response = await web.client.post(f"/awakeables/{awakeable_id}/reject", headers=sent, content=body)
    problem(response, 400, "malformed-body")
    assert web.store.tables.awakeables[awakeable_id].state == "pending"


async def test_the_event_id_and_the_source_are_in_the_verdict_history(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    sent = {"awakeable-event-id": "e-17", "awakeable-worker": "w"}
    response = await web.client.post(f"/awakeables/{awakeable_id}/resolve", headers=sent)
    assert response.json()["event_id"] == "e-17"
    [entry] = web.store.tables.awakeables[awakeable_id].verdicts.first
    assert entry.event_id == "e-17"
    assert entry.source.startswith("http:evt_1")


async def test_while_the_store_is_down_the_answer_is_503_and_says_that_a_repeat_is_safe(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    web.store.down = True
    for verb in ("resolve", "reject"):
        response = await web.client.post(f"/awakeables/{awakeable_id}/{verb}")
        document = problem(response, 503, "in-doubt")
        assert "safe to repeat" in document["detail"]
        assert response.headers["retry-after"] == "1"
    web.store.down = False
    await until(lambda: not web.engine.problems)
    response = await web.client.post(f"/awakeables/{awakeable_id}/resolve")
    assert response.json()["verdict"] == "accepted"


async def test_a_repeat_of_an_answer_in_doubt_that_was_applied_gets_duplicate(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    web.store.slow_s = 20
    problem(await web.client.post(f"/awakeables/{awakeable_id}/resolve", json=1), 503, "in-doubt")
    web.store.slow_s = 0
    await asyncio.sleep(30)
    assert (await web.client.post(f"/awakeables/{awakeable_id}/resolve", json=1)).json()[
        "verdict"
    ] == "duplicate"


async def test_a_web_page_of_another_site_completes_nothing(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    url = f"/awakeables/{awakeable_id}/resolve"
    for sent in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        problem(await web.client.post(url, headers=sent), 403, "cross-site")
    assert web.store.tables.awakeables[awakeable_id].state == "pending"
    own = {"origin": "http://localhost:8080"}
    assert (await web.client.post(url, headers=own)).status_code == 200
    assert (await web.client.post(url, headers={"sec-fetch-site": "same-origin"})).status_code == 200
