"""Paths, methods, and what no request may do: an answer of 500, or none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from awakeables.errors import DeclarationError
from awakeables.handlers.service import Service
from awakeables.testing.loop import SeededLoop
from awakeables.web.app import WebSettings
from awakeables.web.request import HttpRequest
from awakeables.web.routing import ANYTHING, Routes, read_query
from support.effort import FUZZ_EXAMPLES
from unit.web.harness import Exchange, Web, serving
from unit.web.test_completing import problem


async def unused(_request: HttpRequest) -> Any:
    raise NotImplementedError


def test_an_escaped_slash_stays_in_its_segment() -> None:
    routes = Routes()
    routes.add("POST", "/*/*/*", unused, scope="call")
    _, names = routes.find(b"/cart/a%2Fb%20c/add")
    assert names == ("cart", "a/b c", "add")


def test_a_segment_is_compared_decoded() -> None:
    routes = Routes()
    routes.add("GET", "/health/live", unused, scope=None)
    assert routes.find(b"/heal%74h/live")[0]


async def test_the_first_segments_of_the_service_s_own_paths_are_reserved(web: Web) -> None:
    firsts = {row.path.split("/")[1] for row in web.app._routes.rows} - {ANYTHING}
    assert {"invocations", "metrics", "docs"} < firsts
    for name in firsts:
        with pytest.raises(DeclarationError, match=f"service '{name}': the name is reserved"):
            Service(name)


def test_queries_are_decoded() -> None:
    assert read_query(b"service=a%26b+c", ("service",)) == {"service": "a&b c"}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/invocations/",
        "/orders/greet/",
        "/orders//greet",
        "/awakeables/x/y",
        "/health",
        "/restate",
        "/a/b/c/d",
        "/a/b/c/send/d",
        "/objects",
        "/objects/carts/c-7/size",
        "/orders%2Fgreet",
        "/orders/greet%2Fsend",
        "/invocations/x/nothing",
    ],
)
async def test_nothing_is_served_at_other_paths(web: Web, path: str) -> None:
    for method in ("GET", "POST"):
        exchange = Exchange(method, path)
        await exchange.run(web.app)
        assert exchange.status == 404, (method, path)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/orders/greet", "POST"),
        ("OPTIONS", "/orders/greet", "POST"),
        ("PUT", "/orders/greet/send", "POST"),
        ("HEAD", "/health/live", "GET"),
        ("DELETE", "/invocations/x", "GET"),
        ("POST", "/invocations", "GET"),
        ("GET", "/awakeables/x/resolve", "POST"),
        ("GET", "/restate/a/x/reject", "POST"),
        ("BREW", "/dead-letters", "GET"),
        ("GET", "/carts/c-7/size", "POST"),
        ("PUT", "/carts/c-7/size/send", "POST"),
        ("POST", "/objects/carts/c-7/state", "GET, PATCH"),
    ],
)
async def test_other_methods_are_405_with_what_is_allowed(
    web: Web, method: str, path: str, allow: str
) -> None:
    response = await web.client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    if method != "HEAD":
        problem(response, 405, "method-not-allowed")


async def test_an_unknown_handler_is_404_whatever_the_method(web: Web) -> None:
    problem(await web.client.get("/orders/nothing"), 404, "not-found")


async def test_a_path_that_is_not_utf8_is_400(web: Web) -> None:
    problem(await web.client.post("/orders/%ff"), 400, "bad-request")


async def test_only_http_is_served(web: Web) -> None:
    exchange = Exchange("GET", "/")
    with pytest.raises(NotImplementedError):
        await web.app(exchange.scope | {"type": "websocket"}, exchange.receive, exchange.send)


async def test_an_error_that_should_not_happen_is_500_without_its_stack(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(web.store, "invocations", broken)
    response = await web.client.get("/invocations")
    problem(response, 500, "internal-error")
    assert "42" not in response.text
    assert "Traceback" not in response.text


SEGMENTS = st.sampled_from(
    [
        "restate",
        "a",
        "awakeables",
        "invocations",
        "dead-letters",
        "health",
        "live",
        "ready",
        "orders",
        "carts",
        "objects",
        "echo",
        "size",
        "add",
        "anything",
        "copy",
        "greet",
        "fail",
        "send",
        "resolve",
        "reject",
        "output",
        "attach",
        "resume",
        "restart",
        "cancel",
        "resend",
        "outbox",
        "offsets",
        "skip",
        "state",
        "pause",
        "why",
        "PROM",
        "INV",
        "%2F",
        "%ff",
        "%",
        "%00",
        "",
        "..",
        "ü",
    ]
) | st.text(st.characters(codec="ascii", exclude_characters="?/"), max_size=6)
QUERIES = st.sampled_from(
    ["", "?delay=10s", "?limit=5", "?state=pending", "?before=INV", "?a&b", "?%ff=%", "?delay=1e9"]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "content-type",
            "content-length",
            "content-encoding",
            "idempotency-key",
            "prefer",
            "origin",
            "host",
            "sec-fetch-site",
            "awakeable-event-id",
            "traceparent",
        ]
    ),
    st.sampled_from(
        [
            "application/json",
            "application/x-www-form-urlencoded",
            "text/plain",
            "",
            "wait=1",
            "wait=99999999999999999999",
            "17",
            "99999999999999",
            "k",
            "http://[",
            "http://x",
            "same-origin",
            "ÿ",
        ]
    ),
    max_size=4,
)
BODIES = st.lists(
    st.binary(max_size=20)
    | st.sampled_from(
        [
            b"{}",
            b"null",
            b"[1]",
            b'{"id": "x"}',
            b"NaN",
            b'{"code": 409}',
            b'{"code":1e400}',
            b"404",
            b'"\\ud800"',
            b"9" * 5000,
        ]
    ),
    max_size=3,
)


@settings(max_examples=20 * FUZZ_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["GET", "POST", "PATCH", "PUT", "HEAD", "OPTIONS", "DELETE", "X"]),
    st.lists(SEGMENTS, max_size=5),
    QUERIES,
    HEADERS,
    BODIES,
    st.booleans(),
)
def test_no_request_is_answered_500_or_not_at_all(
    method: str, segments: list[str], query: str, headers: dict[str, str], body: list[bytes], leaves: bool
) -> None:
    async def ask() -> None:
        async with serving(WebSettings(max_body_bytes=4000)) as web:
            awakeable_id = await web.awakeable_of("wait")
            ids = {"PROM": awakeable_id, "INV": web.store.tables.awakeables[awakeable_id].invocation_id}
            path = "/" + "/".join(ids.get(segment, segment) for segment in segments)
            exchange = Exchange(method, path + query, headers=headers, chunks=body)
            if leaves:
                exchange.leave()
            async with asyncio.timeout(100):
                await exchange.run(web.app)
            assert exchange.status is not None
            failed = b'"handler-failed"' in exchange.body
            assert exchange.status < 500 or failed, (exchange.status, exchange.body)
            if exchange.status >= 400:
                assert exchange.headers["content-type"] == "application/problem+json"
            assert web.waiters == 0

    with asyncio.Runner(loop_factory=SeededLoop) as runner:
        runner.run(ask())
