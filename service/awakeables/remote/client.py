"""Sends requests to functions, over HTTP."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx

from awakeables.core.texts import excerpt, shortened
from awakeables.errors import AwakeablesError
from awakeables.handlers.remoteservice import RemoteService
from awakeables.ports import Clock
from awakeables.remote.messages import MAX_BYTES
from awakeables.remote.signing import HEADER

if TYPE_CHECKING:
    from awakeables.remote.signing import Signer

CONNECT_S = 10.0

TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


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
    """Sends requests to the functions of remote services, so many at a time as each allows."""

    def __init__(
        self, clock: Clock, signer: Signer | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Prepare to send.

        Args:
            clock: The machine's, for the time in signatures.
            signer: Signs the requests; None: they aren't signed.
            transport: How they are sent; by default over sockets.
        """
        self._clock = clock
        self._signer = signer
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._http = httpx.AsyncClient(transport=transport, limits=unlimited)
        self._places: dict[str, asyncio.Semaphore] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def describe(self, service: RemoteService) -> bytes:
        """Ask a function what it has.

        Raises:
            FunctionFailed: It did not answer with 200 in time.
        """
        return await self._send("GET", service, b"")

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
        places = self._places.setdefault(service.name, asyncio.Semaphore(service.max_concurrent))
        async with places:
            return await self._send("POST", service, body)

    async def _send(self, method: str, service: RemoteService, body: bytes) -> bytes:
        where, timeout_s = f"the function of {service.name} at {service.url}", service.timeout.total_seconds()
        headers = {"content-type": "application/json"} if body else {}
        if self._signer is not None:
            headers[HEADER] = self._signer.header(method, body, now_s=self._clock.now_ms() // 1000)
        request = self._http.build_request(
            method,
            service.url,
            content=body,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
        )
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.send(request, stream=True)
                try:
                    content = await _content(response, where)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TimeoutException) as error:
            raise FunctionFailed(
                "FunctionTimedOut",
                f"{where} did not answer within {timeout_s:g} s (timeout=); what the handler executed may "
                "have been done",
            ) from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise FunctionFailed("FunctionUnreachable", f"{where} can't be reached: {why}") from error
        if response.status_code != HTTPStatus.OK:
            raise FunctionFailed(
                "FunctionRefused",
                f"{where} answered with {response.status_code}: {_detail(content)}",
                lasting=response.status_code == TOO_LARGE,
            )
        return content


async def _content(response: httpx.Response, where: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_BYTES:
            raise FunctionFailed("AnswerTooLarge", f"{where} answered with more than {MAX_BYTES:,} bytes")
        parts.append(part)
    return b"".join(parts)


def _detail(content: bytes) -> str:
    """What a problem document says, or the beginning of whatever it is."""
    try:
        problem = json.loads(content)
    except ValueError:
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("detail"), str):
        return shortened(problem["detail"])
    return excerpt(content.decode(errors="replace"))
