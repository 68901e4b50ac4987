"""Requests to a function by AWS Lambda's own Invoke, for functions that have no URL."""

from __future__ import annotations

import asyncio
import base64
import json
from http import HTTPStatus

from awakeables.core.texts import described
from awakeables.remote.auth import AuthFailed
from awakeables.remote.aws import AwsIam, botocore_session
from awakeables.remote.transport import Transport


class LambdaTransport:
    """Sends requests by Lambda's Invoke, as the event that a function URL would make of them."""

    def __init__(self, http: Transport) -> None:
        """Invoke over this transport; nothing is loaded before the first request."""
        self._http = http
        self._regions: dict[str, tuple[str, AwsIam]] = {}

    async def send(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """As the port says; `url` is the function's ARN.

        Raises:
            AuthFailed: There are no credentials.
            TransportFailed: There was no answer.
            MissingDependency: botocore is not installed.
        """
        region = url.split(":")[3]
        if region not in self._regions:
            found = await asyncio.to_thread(_endpoint, region)
            # Unless a request beside this one was first: what signs keeps credentials.
            self._regions.setdefault(region, (found, AwsIam(region=region, service="lambda")))
        endpoint, auth = self._regions[region]
        event = {
            "version": "2.0",
            "requestContext": {"http": {"method": method}},
            "headers": headers,
            "body": body.decode(),
            "isBase64Encoded": False,
        }
        content = json.dumps(event, ensure_ascii=False).encode()
        address = f"{endpoint}/2015-03-31/functions/{url}/invocations"
        signed = await auth.headers("POST", address, content)
        status, answered = await self._http.send("POST", address, dict(signed), content)
        return _answer(answered) if status == HTTPStatus.OK else (status, answered)

    async def close(self) -> None:
        """Nothing to close: the transport below is somebody else's."""


def _answer(content: bytes) -> tuple[int, bytes]:
    """What the function returned; or 502, as a function URL answers, with what it raised."""
    try:
        answer = json.loads(content)
        body: str = answer["body"]
        is_encoded = answer.get("isBase64Encoded", False)
        return int(answer["statusCode"]), base64.b64decode(body) if is_encoded else body.encode()
    except (ValueError, LookupError, TypeError, AttributeError):
        return HTTPStatus.BAD_GATEWAY, content


def _endpoint(region: str) -> str:
    """Where Lambda is in a region, or where AWS_ENDPOINT_URL_LAMBDA says that it is."""
    session = botocore_session()
    from botocore import UNSIGNED
    from botocore.config import Config

    try:
        # Unsigned: it sends nothing, so it needs no credentials.
        client = session.create_client(
            "lambda", region_name=region, config=Config(signature_version=UNSIGNED)
        )
    except Exception as error:  # a region or a setting that botocore can't use
        raise AuthFailed(f"the address of Lambda in {region} can't be found: {described(error)}") from error
    return str(client.meta.endpoint_url).rstrip("/")
