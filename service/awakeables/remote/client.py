"""Sends requests to functions, over HTTP."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from awakeables.core.texts import excerpt, shortened
from awakeables.errors import AwakeablesError
from awakeables.handlers.remoteservice import MAX_BYTES, RemoteService, is_lambda
from awakeables.ports import Clock
from awakeables.remote.auth import AuthFailed
from awakeables.remote.lambdainvoke import LambdaTransport
from awakeables.remote.signing import HEADER
from awakeables.remote.transport import Transport, TransportFailed

if TYPE_CHECKING:
    from awakeables.remote.signing import Signer


DESCRIBE_S = 10.0
"""How long a function may take to say what it has."""


class FunctionFailed(AwakeablesError):
    """A function did not answer as it must.

    Attributes:
        kind: For programs.
        lasting: A repetition would fail as well.
    """

    def __init__(self, kind: str, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.lasting = lasting


class FunctionClient:
    """Sends requests to the functions of remote services."""

    def __init__(self, clock: Clock, transport: Transport, signer: Signer | None = None) -> None:
        """Prepare to send.

        Args:
            clock: The machine's, for the time in signatures.
            transport: How requests are sent.
            signer: Signs them; None: they aren't signed.
        """
        self._clock = clock
        self._transport = transport
        self._invoke = LambdaTransport(transport)
        self._signer = signer

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def describe(self, service: RemoteService) -> bytes:
        """Ask a function what it has.

        Raises:
            FunctionFailed: It did not answer with 200 in time.
        """
        return await self._send("GET", service, b"", min(DESCRIBE_S, service.timeout.total_seconds()))

    async def advance(self, service: RemoteService, body: bytes) -> bytes:
        """Invoke a function.

        Raises:
            FunctionFailed: It did not answer with 200 in time, or the request is too large for it.
        """
        if len(body) > service.max_request_bytes:
            raise FunctionFailed(
                "RequestTooLarge",
                f"the request has {len(body):,} bytes, most of it the journal, and {service.name} takes "
                f"{service.max_request_bytes:,} (max_request_bytes=)",
                lasting=True,
            )
        return await self._send("POST", service, body, service.timeout.total_seconds())

    async def _send(self, method: str, service: RemoteService, body: bytes, timeout_s: float) -> bytes:
        where = f"the function of {service.name} at {service.url}"
        headers = {"content-type": "application/json"} if body else {}
        if self._signer is not None:
            headers[HEADER] = self._signer.header(method, body, now_s=self._clock.now_ms() // 1000)
        transport = self._invoke if is_lambda(service.url) else self._transport
        try:
            async with asyncio.timeout(timeout_s):
                if service.auth is not None:
                    headers |= await service.auth.headers(method, service.url, body)
                status, content = await transport.send(method, service.url, headers, body)
        except AuthFailed as error:
            raise FunctionFailed("FunctionUnauthorized", f"{where} can't be asked: {error}") from error
        except TimeoutError as error:
            raise FunctionFailed(
                "FunctionTimedOut",
                f"{where} did not answer within {timeout_s:g} s"
                + ("" if method == "GET" else " (timeout=); what the handler executed may have been done"),
            ) from error
        except TransportFailed as error:
            raise FunctionFailed("FunctionUnreachable", f"{where} can't be reached: {error}") from error
        if len(content) > MAX_BYTES:
            why = f"{where} answered with more than {MAX_BYTES:,} bytes"
            raise FunctionFailed("AnswerTooLarge", why, lasting=True)
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            key = "" if self._signer is not None else "; AWAKEABLES_FUNCTION_KEY is not set"
            why = f"{where} answered with {status}: {_detail(content)}{key}"
            raise FunctionFailed("FunctionUnauthorized", why)
        if status != HTTPStatus.OK:
            raise FunctionFailed(
                "FunctionRefused",
                f"{where} answered with {status}: {_detail(content)}",
                lasting=status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return content


def _detail(content: bytes) -> str:
    """What a problem document says, or the beginning of whatever it is."""
    try:
        problem = json.loads(content)
    except ValueError:
        problem = None
    if isinstance(problem, dict):
        # Ours; what platforms say; what a Lambda function raised.
        for name in ("detail", "message", "Message", "errorMessage"):
            if isinstance(problem.get(name), str):
                return shortened(problem[name])
    return excerpt(content.decode(errors="replace"))
