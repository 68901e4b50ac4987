"""The service, asked over HTTP: what most commands are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from awakeables.cli.terminal import fail
from awakeables.core.texts import excerpt
from awakeables.settings import load_settings

TIMEOUT_S = 30.0
"""Longer than the service waits for its store."""

_WANTS = "wants a token: set AWAKEABLES_TOKEN"
_DOES_NOT_KNOW = "does not know the token in AWAKEABLES_TOKEN (any more)"
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReply:
    """What the service said.

    Attributes:
        text: The body as it came.
        document: The same, parsed: good for names and words; its numbers may have lost digits.
        problem: One line, when it could not do what it was asked for.
    """

    text: bytes
    document: dict[str, Any]
    problem: str | None = None

    def or_fail(self) -> Self:
        """Tell of the problem and exit with 1, if there is one."""
        if self.problem is not None:
            fail(self.problem)
        return self


class ServiceClient:
    """One service. Each verb exits with a line of its own when there is no answer at all."""

    def __init__(self, config: Path | None, url: str | None) -> None:
        """Find out where the service is.

        Raises:
            SettingsRefused: A setting can't be.
        """
        settings = load_settings(config, url=url)
        self._base = settings.url.rstrip("/")
        self._headers = _credentials(settings.token)

    def get(self, *path: str, **query: object) -> ServiceReply:
        return self._ask("GET", path, params=_told(query))

    def post(self, *path: str, body: str | None = None, **query: object) -> ServiceReply:
        """Ask for something to be done; `body` is JSON."""
        headers = self._headers if body is None else self._headers | {"content-type": "application/json"}
        return self._ask("POST", path, content=body, headers=headers, params=_told(query))

    def _ask(self, method: str, path: tuple[str, ...], **request: Any) -> ServiceReply:
        address = "/".join((self._base, *(quote(segment, safe="") for segment in path)))
        try:
            answer = httpx.request(method, address, timeout=TIMEOUT_S, **{"headers": self._headers} | request)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            fail(f"{self._base!r} is no URL: {error}; for example http://127.0.0.1:8080")
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            fail(f"the service at {self._base} can't be reached: {why}; is it running?")
        return _understood(answer, self._base)


def _understood(answer: httpx.Response, base: str) -> ServiceReply:
    sent = answer.request.headers.get("authorization")
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return ServiceReply(
            text=answer.content,
            document={},
            problem=f"what answers at {base} is not this service (HTTP {answer.status_code}):"
            f" {excerpt(answer.text)}",
        )
    problem = None
    if answer.status_code not in (200, 202) and "verdict" not in document:
        problem = f"{document.get('title', f'HTTP {answer.status_code}')}: {document.get('detail', '')}"
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            problem = f"the service at {base} {_WANTS if sent is None else _DOES_NOT_KNOW}"
    return ServiceReply(text=answer.content, document=document, problem=problem)


def _credentials(token: SecretStr | None) -> dict[str, str]:
    if token is None or not token.get_secret_value():
        return {}
    if not _TOKEN.fullmatch(token.get_secret_value()):
        # Said here, because the HTTP library would say it with the token in full.
        fail("AWAKEABLES_TOKEN has a space or another character that no token has")
    return {"authorization": f"Bearer {token.get_secret_value()}"}


def _told(query: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}
