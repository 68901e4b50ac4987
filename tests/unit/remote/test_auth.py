"""Requests to functions on platforms that authenticate them: bearer tokens, AWS' signatures, Lambda's Invoke.

What AWS would do with a request is done here: its signature is made again from the parts of the request as
they arrived, by the steps that AWS documents (*Create a signed AWS API request*), and a function is invoked
with the event as Lambda would.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from botocore.session import Session

from awakeables import App, Context, RemoteService, Service
from awakeables.errors import DeclarationError
from awakeables.remote import AwsIam, BearerToken, lambda_handler
from awakeables.remote.client import FunctionClient, FunctionFailed
from awakeables.remote.functions import Functions
from awakeables.remote.signing import Signer
from awakeables.remote.transport import AiohttpTransport
from awakeables.world import SystemClock
from support.functions import PRIVATE, PUBLIC

KEY_ID, SECRET, SESSION_TOKEN = "AKIAEXAMPLE", "a/secret+key", "a/session+token"
ARN = "arn:aws:lambda:eu-central-1:123456789012:function:orders:live"
SIGNATURE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)

orders = Service("orders")


@orders.handler()
async def double(ctx: Context, number: int) -> int:
    return 2 * number


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_LAMBDA", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)


def signed_for(request: web.BaseRequest, body: bytes) -> tuple[str, str]:
    """The service and region that a request is signed for; fails if the signature is not right."""
    found = SIGNATURE.fullmatch(request.headers["authorization"])
    assert found is not None, request.headers
    key_id, day, region, service, names, signature = found.groups()
    assert key_id == KEY_ID
    assert request.headers["x-amz-security-token"] == SESSION_TOKEN
    assert {"host", "x-amz-date", "x-amz-security-token"} <= set(names.split(";"))
    path, _, query = request.raw_path.partition("?")
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names.split(";"))
    canonical = "\n".join(
        (
            request.method,
            quote(path, safe="/~"),
            "&".join(sorted(query.split("&"))),
            headers,
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    moment = request.headers["x-amz-date"]
    scope = f"{day}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    key = b"AWS4" + SECRET.encode()
    for part in (day, region, service, "aws4_request", to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    assert key.hex() == signature, canonical
    return service, region


class Platform:
    """Where functions are, behind a real socket: what came, and what is answered."""

    def __init__(self) -> None:
        self.seen: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.answer = b"answer"
        self.status = 200
        self.url = ""
        self.function: Any = None

    async def respond(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        self.seen.append(request)
        self.bodies.append(body)
        answer = self.answer
        if self.function is not None:
            assert signed_for(request, body) == ("lambda", "eu-central-1")
            returned = await asyncio.to_thread(self.function, json.loads(body), None)
            answer = json.dumps(returned).encode()
        return web.Response(status=self.status, body=answer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Platform]:
        runner = web.ServerRunner(web.Server(self.respond))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with Platform().running() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[FunctionClient]:
    sending = FunctionClient(SystemClock(), AiohttpTransport(), Signer(PRIVATE))
    yield sending
    await sending.close()


@contextmanager
def failure(text: str) -> Iterator[None]:
    with pytest.raises(FunctionFailed, match=text) as failed:
        yield
    assert failed.value.kind == "FunctionUnauthorized"


async def test_a_bearer_token_is_sent(platform: Platform, client: FunctionClient) -> None:
    tokens = iter(("first", "second", "third"))

    async def fetched() -> str:
        return next(tokens)

    for auth in (BearerToken("fixed"), BearerToken(lambda: next(tokens)), BearerToken(fetched)):
        service = RemoteService("orders", url=platform.url, auth=auth)
        assert await client.advance(service, b"{}") == b"answer"
    assert await client.describe(service) == b"answer"
    sent = [request.headers["authorization"] for request in platform.seen]
    assert sent == ["Bearer fixed", "Bearer first", "Bearer second", "Bearer third"]
    assert all("awakeables-signature" in request.headers for request in platform.seen)


@pytest.mark.parametrize("token", ["", "line\n", "gr\u00fcn", 7, None, " padded"])
def test_a_token_that_no_header_can_have_is_refused(token: Any) -> None:
    with pytest.raises(DeclarationError, match="BearerToken"):
        BearerToken(token)


@pytest.mark.parametrize("returned", ["", "line\n", 7, None])
async def test_a_token_that_can_not_be_had_is_said(
    platform: Platform, client: FunctionClient, returned: Any
) -> None:
    def broken() -> str:
        raise OSError("no such file")

    with failure("there is no token: OSError: no such file"):
        await client.advance(RemoteService("orders", url=platform.url, auth=BearerToken(broken)), b"{}")
    with failure("there is no token: what was returned"):
        await client.advance(
            RemoteService("orders", url=platform.url, auth=BearerToken(lambda: returned)), b"{}"
        )
    assert platform.seen == []


@pytest.mark.parametrize("path", ["", "/", "/shop/orders", "/a%20b/c?x=1&a=%2F", "/a:b"])
async def test_requests_are_signed_with_credentials_of_aws(
    platform: Platform, client: FunctionClient, path: str
) -> None:
    auth = AwsIam(region="eu-west-1", service="execute-api")
    service = RemoteService("orders", url=platform.url + path, auth=auth)
    assert await client.advance(service, b'{"\xc3\xa4": 1}') == b"answer"
    assert await client.describe(service) == b"answer"
    for request, body in zip(platform.seen, platform.bodies, strict=True):
        assert signed_for(request, body) == ("execute-api", "eu-west-1")


@pytest.mark.parametrize(
    ("url", "scope"),
    [
        ("https://abc.lambda-url.eu-central-1.on.aws/", "/eu-central-1/lambda/"),
        ("https://abc.execute-api.us-gov-west-1.amazonaws.com/prod", "/us-gov-west-1/execute-api/"),
        ("https://abc.execute-api.cn-north-1.amazonaws.com.cn/prod", "/cn-north-1/execute-api/"),
    ],
)
async def test_the_region_is_read_from_the_url(url: str, scope: str) -> None:
    headers = await AwsIam().headers("POST", url, b"{}")
    assert scope in headers["Authorization"]


async def test_what_can_not_be_signed_is_said(
    platform: Platform, client: FunctionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failure("127.0.0.1 is no function URL and no address of API Gateway: say region= and service="):
        await client.describe(RemoteService("orders", url=platform.url, auth=AwsIam()))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    auth = AwsIam(region="eu-west-1", service="lambda")
    with failure("there are no AWS credentials"):
        await client.describe(RemoteService("orders", url=platform.url, auth=auth))
    monkeypatch.setenv("AWS_PROFILE", "none-of-this-name")
    with failure("AWS credentials can't be had: .*none-of-this-name"):
        await client.describe(
            RemoteService("orders", url=platform.url, auth=AwsIam(region="eu-west-1", service="lambda"))
        )
    assert platform.seen == []


async def test_both_or_none_of_region_and_service() -> None:
    for options in ({"region": "eu-west-1"}, {"service": "lambda"}):
        with pytest.raises(DeclarationError, match="both region= and service="):
            AwsIam(**options)


async def test_a_function_without_a_url_is_invoked(
    platform: Platform, client: FunctionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", platform.url)
    platform.function = lambda_handler(App("functions", services=[orders]), keys=[PUBLIC])
    service = RemoteService("orders", url=ARN)
    app = App("shop", services=[service])
    await Functions(app, client).learn_all()
    assert list(service.handlers) == ["double"]
    with pytest.raises(FunctionFailed, match="answered with 400: it is not JSON"):
        await client.advance(service, b"nonsense")
    assert {request.raw_path for request in platform.seen} == {f"/2015-03-31/functions/{ARN}/invocations"}
    # AWS' own client asks for the same.
    await asyncio.to_thread(_invoked, platform.bodies[0])
    ours, theirs = platform.seen[0], platform.seen[-1]
    assert (theirs.method, theirs.path) == (ours.method, ours.path)
    assert platform.bodies[-1] == platform.bodies[0]


def _invoked(payload: bytes) -> None:
    client = Session().create_client("lambda", region_name="eu-central-1")
    answer = client.invoke(FunctionName=ARN, Payload=payload)
    assert json.loads(answer["Payload"].read())["statusCode"] == 200


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (
            200,
            b'{"errorMessage": "Task timed out after 3.00 seconds"}',
            "502: Task timed out after 3.00 seconds",
        ),
        (200, b'{"errorMessage": "no orders", "errorType": "KeyError", "stackTrace": []}', "502: no orders"),
        (200, b"null", "502: 'null'"),
        (404, b'{"Message": "Function not found", "Type": "User"}', "404: Function not found"),
        (429, b'{"message": "Rate exceeded"}', "429: Rate exceeded"),
    ],
)
async def test_what_lambda_says_is_told(
    platform: Platform,
    client: FunctionClient,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    answer: bytes,
    told: str,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", platform.url)
    platform.status, platform.answer = status, answer
    with pytest.raises(FunctionFailed, match=re.escape(told)) as failed:
        await client.advance(RemoteService("orders", url=ARN, timeout=timedelta(seconds=9)), b"{}")
    assert failed.value.kind == "FunctionRefused"


@pytest.mark.parametrize("arn", [ARN, ARN.removesuffix(":live"), ARN.replace("aws", "aws-us-gov", 1)])
def test_an_arn_is_an_address(arn: str) -> None:
    assert RemoteService("orders", url=arn).url == arn


@pytest.mark.parametrize(
    "arn", [ARN + ":x", ARN.replace("lambda", "sqs"), ARN.replace("12", "x", 1), "arn:aws:lambda:"]
)
def test_another_arn_is_none(arn: str) -> None:
    with pytest.raises(DeclarationError, match="or a Lambda function's ARN"):
        RemoteService("orders", url=arn)


def test_what_authenticates_is_checked() -> None:
    with pytest.raises(DeclarationError, match="leave auth= out"):
        RemoteService("orders", url=ARN, auth=AwsIam())
    with pytest.raises(DeclarationError, match="auth= is BearerToken"):
        RemoteService("orders", url="http://function.test", auth="token")  # type: ignore[arg-type]
