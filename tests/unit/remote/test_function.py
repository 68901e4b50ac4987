"""The function's side: what it says of itself, and how it answers what it must not do."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import UNSET
from pydantic import BaseModel, Field

from awakeables import App, Context, RetryPolicy, Schedule, Service
from awakeables.core.journal import Input, RunAttemptFailed, RunRequested
from awakeables.core.outcomes import Resolution
from awakeables.errors import DeclarationError
from awakeables.handlers.attempt import Broken, Crashed, Finished, News, Origin, Progress
from awakeables.handlers.stateless import AdvanceRequest
from awakeables.remote import asgi, lambda_handler
from awakeables.remote.function import GRACE_S
from awakeables.remote.messages import FunctionRequest, decode_answer, decode_description, encode
from awakeables.remote.signing import HEADER, Signer
from support.functions import PRIVATE, PUBLIC, function_of

orders = Service("orders")


class Order(BaseModel):
    item: str
    count: int = Field(ge=1)


@orders.handler()
async def fulfil(ctx: Context, order: Order, /) -> str:
    """Fulfil an order."""
    return order.item


@orders.handler(version=2, private=True)
async def count(ctx: Context, most: int = 7) -> int:
    return most


@orders.handler()
async def slow(ctx: Context, seconds: float) -> str:
    return await ctx.run("sleep", asyncio.sleep, seconds, "done")


@orders.handler()
async def blocking(ctx: Context, seconds: float) -> None:
    await ctx.run("sleep", time.sleep, seconds)


@orders.handler()
async def repeated(ctx: Context, seconds: float) -> str:
    return await ctx.run("sleep", asyncio.sleep, seconds, "done", retry=RetryPolicy())


@orders.handler()
async def idle(ctx: Context) -> None:
    await asyncio.sleep(60)


@orders.handler()
async def verbose(ctx: Context, characters: int) -> str:
    return "x" * characters


@orders.handler()
async def raw(ctx: Context, content: bytes) -> bytes:
    return content


SHOP = App("shop", services=[orders])


def request(handler: str, value: Any = None, *, durable: int = 1, **changes: Any) -> bytes:
    """The first request of an attempt."""
    given = UNSET if value is None else msgspec.Raw(json.dumps(value).encode())
    history: tuple[Any, ...] = (
        Input(service="orders", handler=handler, seed="1", at_ms=1, value=given, version=changes.pop("v", 1)),
    )
    begins = True
    if handler in ("slow", "blocking", "repeated") and durable > 1:
        history, begins = (*history, RunRequested(name="sleep")), False
    advance = AdvanceRequest(
        origin=Origin(invocation_id="inv_1", service="orders", handler=handler),
        history=history,
        news=News(now_ms=1_800_000_000_000, durable=durable),
        begins=begins,
    )
    facts: dict[str, Any] = {
        "app": "shop",
        "reply_to": "shop.completions",
        "max_entries": 9,
        "max_actions": 9,
    }
    return encode(FunctionRequest(advance=advance, **facts | changes))


async def asked(
    body: bytes = b"", method: str = "POST", *, signed: bool = True, **options: Any
) -> httpx.Response:
    transport = httpx.ASGITransport(function_of(SHOP, **options))
    headers = {}
    if signed:
        headers[HEADER] = Signer(PRIVATE).header(method, body, now_s=int(time.time()))
    async with httpx.AsyncClient(transport=transport, base_url="http://function.test") as client:
        return await client.request(method, "/any/path", content=body, headers=headers)


async def progress(body: bytes, **options: Any) -> Progress:
    answer = await asked(body, **options)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    return decode_answer(answer.content).progress


async def test_it_says_what_it_has() -> None:
    answer = await asked(method="GET", build="2026.12", limit=timedelta(seconds=9))
    description = decode_description(answer.content)
    assert (description.app, description.build, description.limit_ms) == ("shop", "2026.12", 9000)
    described = {each.name: each for each in description.handlers}
    assert described.keys() == {"fulfil", "count", "slow", "blocking", "repeated", "idle", "verbose", "raw"}
    assert described["fulfil"].doc == "Fulfil an order."
    assert described["fulfil"].input is not None
    schema = json.loads(bytes(described["fulfil"].input.schema))  # type: ignore[arg-type]
    assert schema["required"] == ["item", "count"]
    counts = described["count"]
    assert (counts.version, counts.private, counts.has_default) == (2, True, True)
    assert bytes(counts.default) == b"7"  # type: ignore[arg-type]
    assert described["raw"].input is not None
    assert (described["raw"].input.kind, described["raw"].output.kind) == ("bytes", "bytes")


async def test_it_runs_a_handler_to_its_end() -> None:
    ended = (await progress(request("fulfil", {"item": "book", "count": 1}))).ended
    assert ended == Finished(result=Resolution.of_json(b'"book"'))


async def test_a_handler_or_a_version_that_it_does_not_have_is_tried_again() -> None:
    for body in (request("none"), request("count", v=3)):
        ended = (await progress(body)).ended
        assert isinstance(ended, Crashed)
        assert ended.kind == "NotFound"


async def test_a_journal_of_another_release_parks_the_invocation() -> None:
    changed = json.loads(request("fulfil", {}))
    changed["advance"]["history"].append({"k": "of-the-future"})
    ended = (await progress(json.dumps(changed).encode())).ended
    assert isinstance(ended, Broken)
    assert ended.kind == "UnknownEntry"
    assert "of-the-future" in ended.message


@pytest.mark.parametrize("handler", ["slow", "blocking"])
async def test_an_action_that_takes_longer_than_the_limit_parks_the_invocation(handler: str) -> None:
    began = time.monotonic()
    ended = (await progress(request(handler, 0.8, durable=2), limit=timedelta(seconds=0.05))).ended
    assert isinstance(ended, Broken)
    assert ended.kind == "FunctionLimitExceeded"
    assert "0.05 s: use an awakeable" in ended.message
    assert time.monotonic() - began < 5


async def test_an_action_that_was_frozen_over_the_limit_is_repeated_if_it_has_a_retry() -> None:
    freeze_s = GRACE_S + 0.3  # over both the actions' time and the request's: their timers expire together
    asyncio.get_running_loop().call_later(0.02, time.sleep, freeze_s)
    told = await progress(request("repeated", 5.0, durable=2), limit=timedelta(seconds=0.1))
    assert told.ended is None
    [failed] = told.entries
    assert isinstance(failed, RunAttemptFailed)
    assert "took longer than the function's limit" in failed.error


async def test_a_handler_that_awaits_asyncio_for_longer_than_the_limit_parks_the_invocation() -> None:
    ended = (await progress(request("idle"), limit=timedelta(seconds=0.05))).ended
    assert isinstance(ended, Broken)
    assert ended.kind == "FunctionLimitExceeded"
    assert "0.05 s: use ctx.sleep to wait" in ended.message


async def test_an_answer_that_is_too_large_parks_the_invocation() -> None:
    ended = (await progress(request("verbose", 5000), max_bytes=5000)).ended
    assert isinstance(ended, Broken)
    assert ended.kind == "AnswerTooLarge"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"app": "\xe9"}', "utf-8"),
        (b"[]", "no request of protocol 1"),
        (b"{}", "`advance`"),
        (request("fulfil", protocol=2), "protocol 2, and this function speaks 1"),
    ],
)
async def test_what_is_no_request_is_refused(body: bytes, told: str) -> None:
    answer = await asked(body)
    assert answer.status_code == 400
    assert told in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_signature_it_tells_nothing(method: str) -> None:
    answer = await asked(method=method, signed=False)
    assert (answer.status_code, HEADER in answer.json()["detail"]) == (401, True)


async def test_another_method_is_refused() -> None:
    answer = await asked(method="PUT")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


async def test_a_request_that_is_too_large_is_refused() -> None:
    answer = await asked(b"x" * 101, max_bytes=100)
    assert answer.status_code == 413
    assert "100 bytes" in answer.json()["detail"]


async def test_unsigned_answers_everybody() -> None:
    transport = httpx.ASGITransport(asgi(SHOP, unsigned=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://function.test") as client:
        assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize("serve", [asgi, lambda_handler])
@pytest.mark.parametrize("options", [{}, {"keys": [PUBLIC], "unsigned": True}])
def test_it_must_be_said_who_may_invoke_it(serve: Any, options: Any) -> None:
    with pytest.raises(DeclarationError, match="who may invoke"):
        serve(SHOP, **options)


@pytest.mark.parametrize("serve", [asgi, lambda_handler])
@pytest.mark.parametrize("option", [{"topic": "orders"}, {"schedule": Schedule("* * * * *")}])
def test_topics_and_schedules_are_for_the_service(serve: Any, option: Any) -> None:
    service = Service("orders")
    service.handler("h", **option)(any_input)
    with pytest.raises(DeclarationError, match="orders/h: a function has no topic= and no schedule="):
        serve(App("shop", services=[service]), unsigned=True)


async def any_input(ctx: Context, given: Any = None) -> None: ...


@pytest.mark.parametrize("limit", [timedelta(), 5])
def test_a_limit_is_a_duration(limit: Any) -> None:
    with pytest.raises(DeclarationError, match="limit="):
        asgi(SHOP, unsigned=True, limit=limit)


async def test_it_follows_the_life_of_its_server() -> None:
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    told = []

    async def receive() -> dict[str, str]:
        return {"type": next(messages)}

    async def send(message: Any) -> None:
        told.append(message["type"])

    await function_of(SHOP)({"type": "lifespan"}, receive, send)
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


class TestLambda:
    """The events are as in AWS' documentation, without what is not read."""

    handle = staticmethod(lambda_handler(SHOP, keys=[PUBLIC]))
    body = request("fulfil", {"item": "book", "count": 1}).decode()

    def signature(self, method: str = "POST", body: str = "") -> str:
        return Signer(PRIVATE).header(method, body.encode(), now_s=int(time.time()))

    def events(self) -> dict[str, dict[str, Any]]:
        header = self.signature("POST", self.body)
        v2 = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/",
            "headers": {"content-type": "application/json", HEADER: header},
            "requestContext": {"http": {"method": "POST", "path": "/"}, "domainName": "x.lambda-url.on.aws"},
            "body": self.body,
            "isBase64Encoded": False,
        }
        rest = {
            "resource": "/{proxy+}",
            "httpMethod": "POST",
            "headers": {"Content-Type": "application/json", HEADER.title(): header},
            "multiValueHeaders": {HEADER.title(): [header]},
            "requestContext": {"httpMethod": "POST", "stage": "prod"},
            "body": self.body,
            "isBase64Encoded": False,
        }
        balancer = {
            "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:…"}},
            "httpMethod": "POST",
            "path": "/",
            "headers": {HEADER: header},
            "body": msgspec.json.encode(self.body.encode()).decode().strip('"'),
            "isBase64Encoded": True,
        }
        several = {name: value for name, value in balancer.items() if name != "headers"}
        return {
            "function URL, HTTP API": v2,
            "REST API": rest,
            "load balancer": balancer,
            "load balancer, several values": several | {"multiValueHeaders": {HEADER: [header]}},
        }

    @pytest.mark.parametrize(
        "kind", ["function URL, HTTP API", "REST API", "load balancer", "load balancer, several values"]
    )
    def test_it_answers_events_of(self, kind: str) -> None:
        answer = self.handle(self.events()[kind], None)
        assert answer["statusCode"] == 200, answer
        ended = decode_answer(answer["body"]).progress.ended
        assert ended == Finished(result=Resolution.of_json(b'"book"'))
        if kind == "load balancer, several values":
            assert answer["multiValueHeaders"] == {"content-type": ["application/json"]}
            assert "headers" not in answer
        else:
            assert answer["headers"] == {"content-type": "application/json"}
        json.dumps(answer)  # as Lambda's runtime does

    def test_it_describes_itself(self) -> None:
        event = self.events()["function URL, HTTP API"]
        event["requestContext"]["http"]["method"] = "GET"
        event["headers"] = {HEADER: self.signature("GET")}
        del event["body"]
        answer = self.handle(event, None)
        assert decode_description(answer["body"]).app == "shop"

    def test_it_refuses_what_is_not_signed(self) -> None:
        event = self.events()["function URL, HTTP API"] | {"headers": None}
        assert self.handle(event, None)["statusCode"] == 401

    @pytest.mark.parametrize(
        ("event", "told"),
        [
            ({}, "no HTTP method"),
            ({"Records": []}, "no HTTP method"),
            ({"requestContext": None}, "no HTTP method"),
            ({"httpMethod": "POST", "body": "=", "isBase64Encoded": True}, "base64"),
        ],
    )
    def test_other_events_are_refused(self, event: Any, told: str) -> None:
        answer = self.handle(event, None)
        assert answer["statusCode"] == 400
        assert told in answer["body"]

    def test_an_answer_counts_as_it_is_sent(self) -> None:
        """Quotes are escaped in the event: what fits as a body may not fit there."""
        text = '"' * 400
        body = request("fulfil", {"item": text, "count": 1}).decode()
        event = self.events()["function URL, HTTP API"] | {"body": body}
        event["headers"] = {HEADER: self.signature("POST", body)}
        handle = lambda_handler(SHOP, keys=[PUBLIC], max_bytes=len(body) + 200)
        ended = decode_answer(handle(event, None)["body"]).progress.ended
        assert isinstance(ended, Broken)
        assert ended.kind == "AnswerTooLarge"

    def test_one_process_answers_one_after_the_other(self) -> None:
        for _ in range(3):
            assert self.handle(self.events()["REST API"], None)["statusCode"] == 200
