"""How requests reach functions: by aiohttp.

Not by httpx, which the CLI has: its pool looks at every connection for each request, so that a request costs
6 ms of processor time with 64 under way, and 0.15 ms here (ADR 51).
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from awakeables.errors import AwakeablesError
from awakeables.extras import extra
from awakeables.handlers.remoteservice import MAX_BYTES

if TYPE_CHECKING:
    import aiohttp

CONNECT_S = 10.0

PART_BYTES = 64 * 1024


class TransportFailed(AwakeablesError):
    """There was no answer; the message says why."""


class Transport(Protocol):
    """Sends requests, from any number of tasks."""

    async def send(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Send a request; its status and the content of the answer.

        Redirects are not followed. An answer of more than `MAX_BYTES` is cut behind them.

        Raises:
            TransportFailed: There was no answer.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class AiohttpTransport:
    """Sends requests over connections that are kept."""

    def __init__(self) -> None:
        """Prepare to send; nothing is loaded or opened before the first request."""
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """As the port says.

        Raises:
            MissingDependency: aiohttp is not installed.
        """
        aiohttp, yarl = _aiohttp()
        if self._session is None:
            # How many are under way, and for how long, is the caller's to say.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,
            )
        try:
            # As it is, because it may have been signed: not with its parts quoted in another way.
            where = yarl.URL(url, encoded=True)
            async with self._session.request(
                method, where, data=body, headers=headers, allow_redirects=False
            ) as response:
                parts, size = [], 0
                async for part in response.content.iter_chunked(PART_BYTES):
                    parts.append(part)
                    size += len(part)
                    if size > MAX_BYTES:
                        break
                return response.status, b"".join(parts)
        except (aiohttp.ClientError, OSError) as error:
            raise TransportFailed(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """As the port says."""
        if self._session is not None:
            await self._session.close()


def _aiohttp() -> tuple[ModuleType, ModuleType]:
    with extra("remote", "remote services need"):
        import aiohttp
        import yarl
    return aiohttp, yarl
