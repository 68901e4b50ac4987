"""`POST /{service}/{handler}` and `…/send`."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

import pytest

from awakeables.core.outcomes import Resolution
from awakeables.testing.bench import pass_time, until
from awakeables.web.app import WebSettings
from unit.web.harness import MAX_BODY_BYTES, Exchange, Web, serving
from unit.web.test_completing import FORM, JSON, TEXT, problem


async def test_a_call_answers_with_the_handlers_result(web: Web) -> None:
    response = await web.client.post("/orders/echo", json={"id": "o-17", "n": 2})
    assert response.status_code == 200
    assert response.json() == {"id": "o-17", "n": 2}
    assert response.headers["content-type"] == "application/json"
    row = web.store.tables.invocations[response.headers["invocation-id"]]
    assert row.status == "completed"


async def test_input_is_journaled_to_the_letter(web: Web) -> None:
    response = await web.client.post(
        "/orders/anything", headers=JSON, content=b' {"n": 18446744073709551616} '
    )
    assert response.json() == {"n": 2**64}
    shown = await web.client.get(f"/invocations/{response.headers['invocation-id']}")
    assert b'{"n": 18446744073709551616}' in shown.content


async def test_a_handler_without_input_is_called_without_a_body(web: Web) -> None:
    for content in (b"", b"null"):
        assert (await web.client.post("/orders/greet", content=content)).json() == "hello"
    document = problem(await web.client.post("/orders/greet", content=b"{}"), 422, "invalid-input")
    assert "takes no input" in document["detail"]


async def test_case_t6_without_a_body_the_input_is_the_handler_s_default(web: Web) -> None:
    post = web.client.post
    assert (await post("/orders/page")).json() == 10
    assert (await post("/orders/page", headers=JSON, content=b"")).json() == 10
    assert (await post("/orders/page", headers=JSON, content=b"3")).json() == 3
    problem(await post("/orders/page", headers=JSON, content=b"null"), 422, "invalid-input")
    sent = await post("/orders/page/send")
    assert (await web.client.get(sent.headers["location"])).json() in (10, sent.json())


async def test_case_t6_absent_without_a_default_is_null_for_a_type_that_takes_it(web: Web) -> None:
    assert (await web.client.post("/orders/maybe")).json() is None
    document = problem(await web.client.post("/orders/needs"), 422, "invalid-input")
    assert "a body is required" in document["detail"]


async def test_case_t6_the_default_is_described(web: Web) -> None:
    paths = (await web.client.get("/openapi.json")).json()["paths"]
    body = paths["/orders/page"]["post"]["requestBody"]
    assert body["required"] is False
    assert body["content"]["application/json"]["schema"]["default"] == 10
    assert paths["/orders/needs"]["post"]["requestBody"]["required"] is True


async def test_case_t2_a_result_is_answered_as_it_is_described(web: Web) -> None:
    assert (await web.client.post("/orders/person")).json() == {"firstName": "Ann"}
    document = (await web.client.get("/openapi.json")).json()
    schema = document["paths"]["/orders/person"]["post"]["responses"]["200"]["content"]["application/json"]
    name = schema["schema"]["$ref"].removeprefix("#/components/schemas/")
    assert list(document["components"]["schemas"][name]["properties"]) == ["firstName"]


async def test_a_handler_of_bytes_takes_and_gives_any_bytes(web: Web) -> None:
    response = await web.client.post("/orders/copy", content=b"\xff\x00{", headers=TEXT)
    assert response.content == b"\xff\x00{"
    assert response.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("sent", [FORM, {}])
async def test_a_body_that_is_json_is_taken_with_curls_form_type_and_without_type(
    web: Web, sent: dict[str, str]
) -> None:
    assert (await web.client.post("/orders/anything", headers=sent, content=b"[1]")).json() == [1]


async def test_input_that_does_not_fit_is_422_and_says_why(web: Web) -> None:
    document = problem(await web.client.post("/orders/echo", json={"n": "x"}), 422, "invalid-input")
    assert "id: Field required" in document["detail"]
    assert "n: " in document["detail"]
    document = problem(await web.client.post("/orders/echo", json={"id": "x" * 11}), 422, "invalid-input")
    assert "at most 10 characters" in document["detail"]
    problem(await web.client.post("/orders/echo"), 422, "invalid-input")
    assert web.store.tables.invocations == {}


async def test_bodies_that_can_not_be_read_are_400_413_and_415(web: Web) -> None:
    problem(await web.client.post("/orders/anything", headers=JSON, content=b"NaN"), 400, "malformed-body")
    problem(
        await web.client.post("/orders/anything", headers=TEXT, content=b"x"), 415, "unsupported-media-type"
    )
    large = b"x" * (MAX_BODY_BYTES + 1)
    problem(await web.client.post("/orders/anything", headers=JSON, content=large), 413, "too-large")
    assert web.store.tables.invocations == {}


async def test_ten_megabytes_go_in_and_out_to_the_letter() -> None:
    value = b'"' + b"x" * (10 * 1024 * 1024 - 2) + b'"'
    async with serving(WebSettings(max_body_bytes=len(value))) as web:
        response = await web.client.post("/orders/anything", headers=JSON, content=value)
        assert (response.status_code, response.content == value) == (200, True)
        response = await web.client.post("/orders/anything", headers=JSON, content=value + b" ")
        problem(response, 413, "too-large")


async def test_a_body_without_a_length_is_read_no_further_than_the_limit(web: Web) -> None:
    exchange = Exchange("POST", "/orders/anything", headers=JSON, chunks=[b"x" * 400] * 1000)
    await exchange.run(web.app)
    assert exchange.status == 413
    assert exchange.read == 3


@pytest.mark.parametrize("path", ["anything", "wait/send"])
async def test_case_o3_more_json_values_than_the_limit_are_413_before_they_are_read(path: str) -> None:
    async with serving(WebSettings(max_json_values=1000)) as web:
        for many in (
            b"[" + b"[]," * 1000 + b"0]",
            b'["' + b",[" * 10 + b'"' + b',""' * 1000 + b"]",
            b"[" * 1001,
        ):
            response = await web.client.post(f"/orders/{path}", headers=JSON, content=many)
            assert "1,000" in problem(response, 413, "too-many-values")["detail"]
        assert web.store.tables.invocations == {}
        text = b'"' + b",[{" * 1000 + b'"'
        response = await web.client.post("/orders/anything", headers=JSON, content=text)
        assert (response.status_code, response.content) == (200, text)


async def test_case_o3_bodies_are_bounded_together_and_small_ones_and_health_are_served() -> None:
    large = b'"' + b"x" * 100_000 + b'"'
    async with serving(WebSettings(max_bodies_bytes=250_000)) as web:
        held = [
            Exchange("POST", "/orders/anything", headers=JSON, chunks=[large, b""], pause_before=1)
            for _ in range(2)
        ]
        reading = [asyncio.ensure_future(exchange.run(web.app)) for exchange in held]
        await until(lambda: all(exchange.read == 1 for exchange in held))
        refused = await web.client.post("/orders/anything", headers=JSON, content=large)
        problem(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert (await web.client.post("/orders/anything", headers=JSON, content=b"1")).content == b"1"
        assert (await web.client.get("/health/ready")).status_code == 200
        held[0].leave()
        held[1].go_on.set()
        await asyncio.gather(*reading)
        assert held[1].status == 200
        assert (await web.client.post("/orders/anything", headers=JSON, content=large)).content == large


async def test_case_u1_a_call_of_a_handler_that_is_paused_is_answered_at_once_with_the_reason(
    web: Web,
) -> None:
    began = web.engine.clock.monotonic()
    response = await web.client.post("/orders/misuse")
    assert web.engine.clock.monotonic() - began < 2
    assert (response.status_code, response.headers["retry-after"]) == (202, "60")
    answer = response.json()
    invocation_id = answer["invocation_id"]
    assert answer["status"] == "paused"
    assert answer["reason"].startswith("paused, HandlerMisuse: ")
    assert f"`awakeables show {invocation_id}`, then `awakeables resume`" in answer["reason"]
    assert response.headers["location"] == f"/invocations/{invocation_id}/output"
    for path in (f"{invocation_id}/output", f"{invocation_id}/attach"):
        later = await web.client.get(f"/invocations/{path}")
        assert (later.status_code, later.json()) == (202, answer)
    [listed] = (await web.client.get("/invocations")).json()["items"]
    shown = (await web.client.get(f"/invocations/{invocation_id}")).json()
    assert listed["reason"] == shown["reason"] == answer["reason"]
    assert web.waiters == 0


async def test_case_u1_a_call_of_a_handler_that_is_paused_later_is_answered_then(web: Web) -> None:
    attempt = asyncio.ensure_future(web.client.post("/orders/misuse_later"))
    await until(lambda: web.waiters)
    began = web.engine.clock.monotonic()
    response = await attempt
    assert 4 < web.engine.clock.monotonic() - began < 6
    assert response.json()["status"] == "paused"


async def test_case_u1_a_call_that_waited_in_vain_says_which_attempt_failed_and_why(web: Web) -> None:
    response = await web.client.post("/orders/crash", headers={"prefer": "wait=20"})
    answer = response.json()
    assert (response.status_code, response.headers["retry-after"]) == (202, "1")
    assert re.fullmatch(r"attempt \d failed, RuntimeError: the secret is 42; .*by itself", answer["reason"])
    path = f"/invocations/{answer['invocation_id']}"
    assert (await web.client.get(f"{path}/output")).json()["reason"] == answer["reason"]
    assert (await web.client.get(path)).json()["reason"] == answer["reason"]


async def test_what_only_waits_has_no_reason(web: Web) -> None:
    response = await web.client.post("/orders/wait", headers={"prefer": "wait=1"})
    assert response.json().keys() == {"invocation_id", "status"}
    assert (await web.client.get("/invocations")).json()["items"][0]["reason"] is None


async def test_case_o13_no_response_can_be_taken_for_a_page(web: Web) -> None:
    for path in ("/orders/greet", "/orders/nothing", "/nowhere", "/docs", "/health/live"):
        method = "POST" if path.startswith("/orders") else "GET"
        response = await web.client.request(method, path)
        assert response.headers.get_list("x-content-type-options") == ["nosniff"], path


async def test_a_body_in_chunks_is_put_together(web: Web) -> None:
    exchange = Exchange("POST", "/orders/anything", headers=JSON, chunks=[b'{"a"', b":", b"1}"])
    await exchange.run(web.app)
    assert (exchange.status, exchange.body) == (200, b'{"a":1}')


async def test_the_404_lists_what_there_is(web: Web) -> None:
    assert "orders" in problem(await web.client.post("/nothing/x"), 404, "not-found")["detail"]
    assert "echo" in problem(await web.client.post("/orders/nothing"), 404, "not-found")["detail"]
    problem(await web.client.post("/orders/nothing/send"), 404, "not-found")
    problem(await web.client.post("/cart/key/add"), 404, "not-found")


@pytest.mark.parametrize(("code", "status"), [(409, 409), (400, 400), (599, 599), (200, 500), (1000, 500)])
async def test_a_failure_answers_its_code_or_500(web: Web, code: int, status: int) -> None:
    response = await web.client.post("/orders/fail", json=code)
    document = problem(response, status, "handler-failed")
    assert (document["reason"], document["code"]) == ("out of stock", code)
    assert document["details"] == {"sku": "x", "exact": 2**64}
    assert document["invocation_id"] == response.headers["invocation-id"]


async def test_the_handler_sees_the_callers_headers_without_secrets_and_hops(web: Web) -> None:
    sent = {
        "Traceparent": "00-aa-bb-01",
        "X-Tenant": "t",
        "Authorization": "Bearer x",
        "Cookie": "a=b",
        "Connection": "close",
        "TE": "trailers",
    }
    given = (await web.client.post("/orders/headers", headers=sent)).json()
    assert (given["traceparent"], given["x-tenant"]) == ("00-aa-bb-01", "t")
    assert not {"authorization", "cookie", "connection", "te", "content-length"} & given.keys()


async def test_headers_that_are_given_twice_become_a_list(web: Web) -> None:
    exchange = Exchange("POST", "/orders/headers")
    exchange.scope["headers"] = [(b"x-a", b"1"), (b"x-a", b"2")]
    await exchange.run(web.app)
    assert exchange.body == b'{"x-a":"1, 2"}'


# ── waiting ─────────────────────────────────────────────────────────────────────────────────


async def test_a_call_that_takes_too_long_answers_202_and_where_to_ask(web: Web) -> None:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    response = await web.client.post("/orders/wait")
    assert loop.time() - began_s == pytest.approx(60, abs=1)
    assert response.status_code == 202
    invocation_id = response.headers["invocation-id"]
    assert response.headers["location"] == f"/invocations/{invocation_id}/output"
    assert response.headers["retry-after"] == "1"
    assert response.json() == {"invocation_id": invocation_id, "status": "suspended"}
    assert web.waiters == 0


@pytest.mark.parametrize(
    ("prefer", "waits_s"),
    [("wait=0", 0), ("wait=5", 5), ("respond-async, wait=7; x=1", 7), ("wait=1000", 60), ("wait=x", 60)],
)
async def test_prefer_wait_shortens_the_wait_up_to_the_maximum(web: Web, prefer: str, waits_s: int) -> None:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    response = await web.client.post("/orders/wait", headers={"prefer": prefer})
    assert response.status_code == 202
    assert loop.time() - began_s == pytest.approx(waits_s, abs=0.9)


@pytest.mark.parametrize("after_s", [0.02, 0.5, 20])
async def test_a_call_is_answered_as_soon_as_its_awakeable_is(web: Web, after_s: float) -> None:
    call = asyncio.ensure_future(web.client.post("/orders/wait"))
    await until(lambda: web.store.tables.awakeables)
    await asyncio.sleep(after_s)
    [awakeable_id] = web.store.tables.awakeables
    await web.client.post(f"/awakeables/{awakeable_id}/resolve", json="done")
    assert (await call).json() == "done"
    assert web.waiters == 0


@pytest.mark.parametrize("after_s", [0.1, 5])
async def test_a_client_that_goes_away_cancels_nothing_and_leaves_no_waiter(web: Web, after_s: float) -> None:
    exchange = Exchange("POST", "/orders/wait")
    call = asyncio.ensure_future(exchange.run(web.app))
    await asyncio.sleep(after_s)
    assert web.waiters == 1
    exchange.leave()
    await until(call.done, within_s=1.5)
    assert web.waiters == 0
    [row] = web.store.tables.invocations.values()
    assert row.status == "suspended"
    [awakeable_id] = web.store.tables.awakeables
    await web.client.post(f"/awakeables/{awakeable_id}/resolve", json="done")
    await until(lambda: web.store.tables.invocations[row.id].status == "completed")


async def test_a_client_that_goes_away_in_its_body_begins_nothing(web: Web) -> None:
    exchange = Exchange("POST", "/orders/anything")
    exchange.leave()
    exchange._chunks = []
    await exchange.run(web.app)
    assert exchange.status is None
    assert web.store.tables.invocations == {}


async def test_while_draining_calls_are_refused_and_those_that_wait_are_answered_202(web: Web) -> None:
    loop = asyncio.get_running_loop()
    call = asyncio.ensure_future(web.client.post("/orders/wait"))
    await asyncio.sleep(5)
    began_s = loop.time()
    web.app.drain()
    assert (await call).status_code == 202
    assert loop.time() - began_s < 1
    response = await web.client.post("/orders/greet")
    problem(response, 503, "overloaded")
    assert response.headers["retry-after"] == "1"
    problem(await web.client.post("/orders/greet/send"), 503, "overloaded")


async def test_while_the_engine_stops_calls_are_refused(web: Web) -> None:
    await web.engine.drain(timedelta(seconds=1))
    problem(await web.client.post("/orders/greet"), 503, "overloaded")


async def test_while_the_store_is_down_a_call_is_503_in_doubt(web: Web) -> None:
    web.store.down = True
    response = await web.client.post("/orders/greet")
    document = problem(response, 503, "in-doubt")
    assert "Idempotency-Key" in document["detail"]
    assert response.headers["retry-after"] == "1"
    web.store.down = False
    await asyncio.sleep(5)
    assert web.store.tables.invocations == {}


@pytest.mark.parametrize("handler", ["greet", "wait"])
async def test_a_call_in_doubt_whose_commit_came_through_runs_on(web: Web, handler: str) -> None:
    web.store.slow_s = 20
    problem(await web.client.post(f"/orders/{handler}"), 503, "in-doubt")
    web.store.slow_s = 0
    await asyncio.sleep(60)
    [row] = web.store.tables.invocations.values()
    assert (row.status, row.failure) == ("completed" if handler == "greet" else "suspended", None)


# ── sending ─────────────────────────────────────────────────────────────────────────────────


async def test_send_answers_202_at_once_with_the_invocation_and_where_its_output_will_be(web: Web) -> None:
    response = await web.client.post("/orders/greet/send")
    assert response.status_code == 202
    invocation_id = response.json()["invocation_id"]
    assert response.json() == {"invocation_id": invocation_id, "created": True}
    assert response.headers["location"] == f"/invocations/{invocation_id}/output"
    await until(lambda: web.store.tables.invocations[invocation_id].status == "completed")
    assert (await web.client.get(response.headers["location"])).json() == "hello"


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("10", 10), ("500ms", 0.5), ("7d", 604_800), ("1h30m", 5400), ("PT10S", 10), ("0s", 0)],
)
async def test_send_begins_after_the_delay(web: Web, delay: str, seconds: float) -> None:
    response = await web.client.post("/orders/greet/send", params={"delay": delay})
    row = web.store.tables.invocations[response.json()["invocation_id"]]
    if seconds:
        assert row.status == "pending"
        assert row.due_ms == row.created_ms + seconds * 1000
    if seconds > 7200:
        return
    if seconds:
        await pass_time(seconds - 0.4)
        assert web.store.tables.invocations[row.id].status == "pending"
    await asyncio.sleep(1)
    assert web.store.tables.invocations[row.id].status == "completed"


@pytest.mark.parametrize("delay", ["", "soon", "-1s", "999999d", "٣s", "9" * 400])
async def test_a_delay_that_can_not_be_read_is_400(web: Web, delay: str) -> None:
    document = problem(
        await web.client.post("/orders/greet/send", params={"delay": delay}), 400, "bad-request"
    )
    assert document["detail"].startswith("delay: ")


# ── idempotency ─────────────────────────────────────────────────────────────────────────────


async def test_the_same_key_and_body_attach_to_the_same_invocation(web: Web) -> None:
    sent = {"idempotency-key": "k-1"}
    first = await web.client.post("/orders/anything", json=[1], headers=sent)
    again = await web.client.post("/orders/anything", json=[1], headers=sent)
    assert first.headers["invocation-id"] == again.headers["invocation-id"]
    assert first.json() == again.json() == [1]
    assert "awakeables-attached" not in first.headers
    assert again.headers["awakeables-attached"] == "true"
    later = await web.client.post("/orders/anything/send", json=[1], headers=sent)
    assert later.json() == {"invocation_id": first.headers["invocation-id"], "created": False}
    assert later.headers["awakeables-attached"] == "true"


async def test_concurrent_calls_with_one_key_are_one_invocation(web: Web) -> None:
    sent = {"idempotency-key": "k-1"}
    answers = await asyncio.gather(*(web.client.post("/orders/greet", headers=sent) for _ in range(10)))
    assert {answer.json() for answer in answers} == {"hello"}
    assert len(web.store.tables.invocations) == 1


async def test_another_body_under_the_same_key_is_422(web: Web) -> None:
    sent = {"idempotency-key": "k-1"}
    await web.client.post("/orders/anything", json=[1], headers=sent)
    response = await web.client.post("/orders/anything", json=[2], headers=sent)
    assert "k-1" in problem(response, 422, "idempotency-conflict")["detail"]


async def test_a_key_is_unique_per_handler(web: Web) -> None:
    sent = {"idempotency-key": "k-1"}
    await web.client.post("/orders/anything", json=[1], headers=sent)
    assert (await web.client.post("/orders/copy", content=b"x", headers=sent)).content == b"x"


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_that_is_empty_or_too_long_is_400(web: Web, key: str) -> None:
    problem(await web.client.post("/orders/greet", headers={"idempotency-key": key}), 400, "bad-request")


async def test_the_maximum_is_a_setting() -> None:
    async with serving(
        WebSettings(call_timeout=timedelta(seconds=3), retry_after=timedelta(seconds=2.5))
    ) as web:
        loop = asyncio.get_running_loop()
        response = await web.client.post("/orders/wait")
        assert loop.time() == pytest.approx(3, abs=0.5)
        assert response.headers["retry-after"] == "3"


async def test_a_value_of_the_handlers_own_is_answered_to_the_letter(web: Web) -> None:
    awakeable_id = await web.awakeable_of("wait")
    row = web.store.tables.awakeables[awakeable_id]
    await web.client.post(
        f"/awakeables/{awakeable_id}/resolve", headers=JSON, content=b"18446744073709551616"
    )
    response = await web.client.get(f"/invocations/{row.invocation_id}/attach")
    assert response.content == b"18446744073709551616"
    assert web.store.tables.invocations[row.invocation_id].result == Resolution.of_json(
        b"18446744073709551616"
    )


async def test_a_private_handler_is_not_there_for_the_outside(web: Web) -> None:
    for path in ("/orders/hidden", "/orders/hidden/send"):
        document = problem(await web.client.post(path), 404, "not-found")
        assert "orders/hidden is private" in document["detail"]
    assert "/orders/hidden" not in (await web.client.get("/openapi.json")).json()["paths"]
    shown = await web.client.post("/orders/calls_hidden")
    assert shown.json() == "found"
    [call] = [row for row in web.store.tables.invocations.values() if row.handler == "hidden"]
    told = (await web.client.get(f"/invocations/{call.id}")).json()
    assert told["caller"] == shown.headers["invocation-id"]
    assert (await web.client.get(f"/invocations/{told['caller']}")).json()["caller"] is None
