"""Who is let in over HTTP: tokens and their scopes, host names, other sites; and request IDs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
from structlog.contextvars import get_contextvars

from awakeables.core.jsontext import MAX_NESTING
from awakeables.errors import OperatorError
from awakeables.handlers.service import App
from awakeables.runtime import _accept_exposure, _web_settings, serve
from awakeables.settings import load_settings
from awakeables.testing.loop import SeededEntropy
from awakeables.web.app import WebSettings
from awakeables.web.problems import Problem
from awakeables.web.requestids import RequestIds
from awakeables.web.routing import Target, _Node
from awakeables.web.server import is_exposed
from awakeables.web.tokenfile import INCLUDES, SCOPES
from unit.web.harness import Exchange, Web, orders, serving
from unit.web.test_completing import JSON, problem


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def write_tokens(path: Path, *names: str) -> Path:
    """A token per name, good for the scope of that name; `all` for every one."""
    tables = [
        f'[{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n'
        f"scopes = {list(SCOPES) if name == 'all' else [name]}\n"
        for name in names
    ]
    path.write_text("\n".join(tables))
    path.chmod(0o600)
    return path


@pytest_asyncio.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Web]:
    async with serving(tokens=write_tokens(tmp_path / "tokens.toml", *SCOPES, "all")) as running:
        yield running


# ── tokens ──────────────────────────────────────────────────────────────────────────────────


async def test_without_a_token_the_only_answer_is_that_one_is_needed(guarded: Web) -> None:
    for method, path in (
        ("POST", "/orders/greet"),
        ("POST", "/orders/nothing"),
        ("GET", "/orders/greet"),
        ("GET", "/orders/nothing"),
        ("GET", "/invocations?unknown=1"),
        ("POST", "/awakeables/x/resolve"),
    ):
        for sent in (
            {},
            {"authorization": "Basic YTpi"},
            {"authorization": "Bearer "},
            {"authorization": "all"},
        ):
            response = await guarded.client.request(method, path, headers=sent)
            problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == 'Bearer realm="awakeables"'
    assert guarded.store.tables.invocations == {}


async def test_an_unknown_token_is_401_invalid_token(guarded: Web) -> None:
    for token in ("wrong", "call,", "ALL", "ü"):
        sent = {b"authorization": f"Bearer {token}".encode()}
        response = await guarded.client.post("/orders/greet", headers=sent)
        document = problem(response, 401, "unauthorized")
        assert token not in document["detail"]
        assert response.headers["www-authenticate"].endswith('error="invalid_token"')


async def test_a_token_that_is_known_is_let_in_however_its_scheme_is_written(guarded: Web) -> None:
    for value in ("Bearer call", "bearer  call", "BEARER call "):
        response = await guarded.client.post("/orders/greet", headers={"authorization": value})
        assert response.json() == "hello"


async def test_health_needs_no_token(guarded: Web) -> None:
    for path in ("/health/live", "/health/ready"):
        assert (await guarded.client.get(path)).status_code == 200


@pytest.mark.parametrize(("headers", "shown"), [({}, False), (bearer("call"), False), (bearer("read"), True)])
async def test_case_o13_readiness_says_what_is_wrong_only_to_those_who_may_look(
    guarded: Web, headers: dict[str, str], shown: bool
) -> None:
    guarded.engine.problems |= {"broker": "kafka-1:9092 is away", "store": "/var/lib/a.db is full"}
    response = await guarded.client.get("/health/ready", headers=headers)
    assert response.status_code == 503
    document = response.json()
    assert (set(document["problems"]), set(document["degraded"])) == ({"store"}, {"broker"})
    assert ("kafka-1" in response.text) == ("/var/lib" in response.text) == shown


async def test_case_o13_readiness_names_no_paths_where_other_machines_get_in_without_tokens() -> None:
    async with serving(WebSettings(exposed=True, hosts=None)) as web:
        web.engine.problems["broker"] = "kafka-1:9092 is away"
        response = await web.client.get("/health/ready")
        assert set(response.json()["degraded"]) == {"broker"}
        assert "kafka-1" not in response.text


async def test_a_token_without_the_scope_is_403_that_names_it(guarded: Web) -> None:
    awakeable_id = await guarded.awakeable_of("wait")
    response = await guarded.client.post(f"/awakeables/{awakeable_id}/resolve", headers=bearer("call"))
    document = problem(response, 403, "insufficient-scope")
    assert document["scope"] == "complete"
    assert "'complete'; 'call' has call" in document["detail"]
    challenge = response.headers["www-authenticate"]
    assert challenge == 'Bearer realm="awakeables", error="insufficient_scope", scope="complete"'
    assert guarded.store.tables.awakeables[awakeable_id].state == "pending"
    response = await guarded.client.post(f"/awakeables/{awakeable_id}/resolve", headers=bearer("complete"))
    assert response.json()["verdict"] == "accepted"


def rows(node: _Node, path: str = "") -> Iterator[tuple[str, str, Target]]:
    """The table of routes, read back."""
    for method, target in node.methods.items():
        yield method, path, target
    for segment, child in node.fixed.items():
        yield from rows(child, f"{path}/{segment}")
    if node.variable is not None:
        yield from rows(node.variable, f"{path}/x")


async def test_every_route_but_health_asks_for_exactly_its_scope(guarded: Web) -> None:
    table = list(rows(guarded.app._routes._root))
    assert len(table) > 15
    for method, path, target in table:
        assert (target.scope is None) == path.startswith("/health/"), path
        if target.scope is None:
            continue
        assert (target.scope in ("read", "metrics")) == (method == "GET"), path
        assert target.own == path.endswith(("/output", "/attach")), path
        for scope in SCOPES:
            exchange = Exchange(method, path, headers=bearer(scope))
            await exchange.run(guarded.app)
            passes = scope in (target.scope, INCLUDES.get(target.scope)) or (target.own and scope == "call")
            assert (exchange.status == 403) != passes, (method, path, scope)
            assert exchange.status != 401


async def test_a_token_that_is_taken_out_of_the_file_is_refused_a_second_later(
    guarded: Web, tmp_path: Path
) -> None:
    write_tokens(tmp_path / "new.toml", "call").replace(tmp_path / "tokens.toml")
    await asyncio.sleep(1.5)
    problem(await guarded.client.get("/invocations", headers=bearer("read")), 401, "unauthorized")
    assert (await guarded.client.post("/orders/greet", headers=bearer("call"))).status_code == 200


async def test_case_o7_a_tokens_file_that_is_broken_keeps_the_old_tokens_and_is_degraded(
    guarded: Web, tmp_path: Path
) -> None:
    (tmp_path / "tokens.toml").write_text("[")
    await asyncio.sleep(1.5)
    response = await guarded.client.get("/health/ready", headers=bearer("read"))
    assert response.status_code == 200
    assert "it is not TOML" in response.json()["degraded"]["tokens"]
    assert (await guarded.client.post("/orders/greet", headers=bearer("call"))).status_code == 200


async def test_the_token_is_not_handed_to_handlers(guarded: Web) -> None:
    given = (await guarded.client.post("/orders/headers", headers=bearer("call"))).json()
    assert "authorization" not in given


# ── hosts (hard case 18) ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "10.0.0.1"]
)
async def test_a_web_site_that_took_our_address_is_421(web: Web, host: str) -> None:
    awakeable_id = await web.awakeable_of("wait")
    for method, path in (("GET", "/awakeables"), ("POST", f"/awakeables/{awakeable_id}/resolve")):
        response = await web.client.request(method, path, headers={"host": host})
        assert "AWAKEABLES_ALLOWED_HOSTS" in problem(response, 421, "misdirected")["detail"]
    assert web.store.tables.awakeables[awakeable_id].state == "pending"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "localhost.", "a.localhost", "127.0.0.1:1", "127.0.1.1", "[::1]:8080"],
)
async def test_names_of_the_loopback_are_answered(web: Web, host: str) -> None:
    assert (await web.client.get("/invocations", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["[::1].evil.com", "[::1", "localhost@evil.com", "127.0.0.1/x", "127.0.0.1.evil"]
)
async def test_case_o12_a_name_that_only_looks_like_the_loopback_is_not_answered(web: Web, host: str) -> None:
    problem(await web.client.get("/invocations", headers={"host": host}), 421, "misdirected")


async def test_a_request_without_a_host_comes_from_no_browser(web: Web) -> None:
    exchange = Exchange("GET", "/invocations")
    await exchange.run(web.app)
    assert exchange.status == 200


async def test_more_names_can_be_allowed_and_any_with_tokens(guarded: Web) -> None:
    async with serving(WebSettings(hosts=frozenset({"Shop.example"}))) as web:
        assert (await web.client.get("/invocations", headers={"host": "shop.example:80"})).status_code == 200
        problem(await web.client.get("/invocations", headers={"host": "other.example"}), 421, "misdirected")
    async with serving(WebSettings(hosts=None)) as web:
        assert (await web.client.get("/invocations", headers={"host": "other.example"})).status_code == 200


# ── beyond this machine ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("host", "exposed"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.0.2.1", True),
    ],
)
def test_an_address_that_other_machines_reach_is_known(host: str, exposed: bool) -> None:
    assert is_exposed(host) is exposed


def test_a_name_that_has_any_outside_address_is_exposed(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_args: object, **_kwargs: object) -> list[Any]:
        return [(2, 1, 6, "", ("127.0.0.1", 0)), (2, 1, 6, "", ("192.0.2.1", 0))]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    assert is_exposed("shop.example")


async def test_serving_other_machines_without_tokens_must_be_asked_for() -> None:
    with pytest.raises(OperatorError, match=r"0\.0\.0\.0 can be reached .*AWAKEABLES_TOKENS_FILE.*INSECURE"):
        await serve(App("shop", services=[orders]), load_settings(host="0.0.0.0"), stop=asyncio.Event())
    _accept_exposure("0.0.0.0", load_settings(host="0.0.0.0", insecure=True), "listen elsewhere")


def test_names_are_checked_where_no_token_is_asked_for() -> None:
    def names(*, exposed: bool, **settings: Any) -> set[str] | None:
        hosts = _web_settings(load_settings(**settings), exposed=exposed).hosts
        return None if hosts is None else set(hosts)

    assert names(exposed=False) == {"127.0.0.1"}
    assert names(exposed=False, host="here", allowed_hosts="a.example, b.example,") == {
        "here",
        "a.example",
        "b.example",
    }
    assert names(exposed=True) is None
    assert names(exposed=True, host="::", allowed_hosts="a.example") == {"::", "a.example"}
    assert names(exposed=False, tokens_file="tokens.toml", allowed_hosts="a.example") is None


def test_case_o12_allowed_hosts_are_names_as_they_are_compared() -> None:
    for given in ("Shop.Example.", "shop.example:8080"):
        hosts = _web_settings(load_settings(allowed_hosts=given), exposed=False).hosts
        assert hosts == frozenset({"127.0.0.1", "shop.example"})
    assert "::2" in (_web_settings(load_settings(allowed_hosts="[::2],::3"), exposed=False).hosts or ())
    for wrong in ("*", "*.example.com", "http://shop.example", "bücher.example", "a b"):
        with pytest.raises(OperatorError, match="is not a host name such as"):
            _web_settings(load_settings(allowed_hosts=wrong), exposed=False)


def test_case_o3_a_body_that_could_never_be_held_is_too_large() -> None:
    web = _web_settings(load_settings(max_bodies_bytes=1_000_000), exposed=False)
    assert web.max_body_bytes == web.max_bodies_bytes == 1_000_000
    assert _web_settings(load_settings(), exposed=False).max_body_bytes == 32 * 1024 * 1024


# ── request IDs ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/invocations", 200),
        ("POST", "/orders/greet", 200),
        ("POST", "/orders/greet/send", 202),
        ("GET", "/nothing", 404),
        ("POST", "/orders/nothing", 404),
        ("DELETE", "/invocations", 405),
        ("POST", "/awakeables/x/resolve", 400),
    ],
)
async def test_every_answer_has_the_requests_id(web: Web, method: str, path: str, status: int) -> None:
    own = await web.client.request(method, path, headers={"x-request-id": "r-17"})
    fresh = await web.client.request(method, path)
    other = await web.client.request(method, path)
    assert own.status_code == fresh.status_code == status
    assert own.headers["x-request-id"] == "r-17"
    assert fresh.headers["x-request-id"].startswith("req_")
    assert fresh.headers["x-request-id"] != other.headers["x-request-id"]
    for response in (own, fresh, other):
        if status >= 400:
            assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_refusals_and_failures_have_the_requests_id_too(
    guarded: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(guarded.store, "invocations", broken)
    for token, status in (("none", 401), ("call", 403), ("read", 500)):
        sent = {"x-request-id": "r-17"} | bearer(token)
        response = await guarded.client.get("/invocations", headers=sent)
        assert response.status_code == status
        assert (response.headers["x-request-id"], response.json()["request_id"]) == ("r-17", "r-17")


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, "ü".encode(), b"a\x7f"])
def test_an_id_that_is_not_1_to_128_visible_characters_is_replaced(given: bytes) -> None:
    ids = RequestIds(SeededEntropy())
    assert ids.of({b"x-request-id": given}).startswith("req_")
    assert ids.of({b"x-request-id": b"!" + b"~" * 127}) == "!" + "~" * 127


def test_two_processes_make_different_ids() -> None:
    entropy = SeededEntropy()
    assert RequestIds(entropy).new() != RequestIds(entropy).new()


async def test_log_lines_of_a_request_carry_its_id(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError

    seen: list[dict[str, Any]] = []

    class Log:
        def exception(self, event: str, **fields: Any) -> None:
            seen.append(get_contextvars() | fields | {"event": event})

    monkeypatch.setattr("awakeables.web.app.log", Log())
    monkeypatch.setattr(web.store, "invocations", broken)
    exchange = Exchange("GET", "/invocations", headers={"x-request-id": "r-17"})
    with structlog.contextvars.bound_contextvars():
        await exchange.run(web.app)
    assert seen[0]["request_id"] == "r-17"


async def test_what_the_server_refuses_has_an_id_of_its_own(web: Web) -> None:
    answer = web.app.refuse(Problem(431, "headers-too-large", "t", "d"))
    document = json.loads(answer.body)
    assert dict(answer.headers)[b"x-request-id"].decode() == document["request_id"]


# ── nesting ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["call", "resolve", "reject"])
async def test_what_is_nested_too_deep_is_400_and_says_how_deep_it_may_be(form: str) -> None:
    async with serving(WebSettings(max_body_bytes=10_000)) as web:
        awakeable_id = await web.awakeable_of("wait")
        path = "/orders/anything" if form == "call" else f"/awakeables/{awakeable_id}/{form}"
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            content = opening * (MAX_NESTING + 5) + b"1" + closing * (MAX_NESTING + 5)
            document = problem(
                await web.client.post(path, headers=JSON, content=content), 400, "malformed-body"
            )
            assert f"nested deeper than {MAX_NESTING} levels" in document["detail"]
        content = b"[" * MAX_NESTING + b"]" * MAX_NESTING
        if form != "reject":
            assert (await web.client.post(path, headers=JSON, content=content)).status_code == 200
