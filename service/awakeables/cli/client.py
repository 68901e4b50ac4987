"""The HTTP client that most commands are built on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from pydantic import SecretStr

from awakeables.cli.terminal import exit_with_error
from awakeables.core.texts import excerpt
from awakeables.settings import load_settings

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 30.0
"""Longer than the service waits for its store."""

_UNAUTHENTICATED = "requires a token: set AWAKEABLES_TOKEN"
_UNKNOWN_CREDENTIALS = "does not accept the token in AWAKEABLES_TOKEN: it may have been revoked"
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReply:
    """A response of the service.

    Attributes:
        text: The body, unchanged.
        document: The body, parsed. Its numbers may have lost digits; print `text` instead.
        problem: One line that says why the request failed, or None.
    """

    text: bytes
    document: dict[str, Any]
    problem: str | None = None

    def or_exit(self) -> Self:
        """Return the reply; if it has a problem, print it and exit with 1."""
        if self.problem is not None:
            exit_with_error(self.problem)
        return self


class ServiceClient:
    """A client of one service. If nothing answers, each verb prints one line and exits with 1."""

    def __init__(self, config: Path | None, url: str | None) -> None:
        """Read the service's URL and token from the settings.

        Raises:
            SettingsRefused: A setting is invalid.
        """
        settings = load_settings(config, url=url)
        self._base = settings.url.rstrip("/")
        self._headers = _credentials(settings.token)

    def get(self, *path: str, **query: object) -> ServiceReply:
        return self._request("GET", path, params=_without_none(query))

    def post(self, *path: str, body: str | None = None, **query: object) -> ServiceReply:
        """Send a POST; `body` is JSON."""
        headers = self._headers if body is None else self._headers | {"content-type": "application/json"}
        return self._request("POST", path, content=body, headers=headers, params=_without_none(query))

    def patch(self, *path: str, body: str) -> ServiceReply:
        """Send a PATCH; `body` is JSON."""
        headers = self._headers | {"content-type": "application/merge-patch+json"}
        return self._request("PATCH", path, content=body, headers=headers)

    def _request(self, method: str, path: tuple[str, ...], **arguments: Any) -> ServiceReply:
        import httpx  # slow to load; most processes send no request

        address = "/".join((self._base, *(quote(segment, safe="") for segment in path)))
        try:
            response = httpx.request(
                method,
                address,
                timeout=TIMEOUT_S,
                # The certificates take longer to load than the request takes: not where they aren't used.
                verify=not self._base.lower().startswith("http://"),
                **{"headers": self._headers} | arguments,
            )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            exit_with_error(f"{self._base!r} is not a URL like http://127.0.0.1:8080: {error}")
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            exit_with_error(f"the service at {self._base} can't be reached: {why}; is it running?")
        return _reply(response, self._base)


def _reply(response: httpx.Response, base: str) -> ServiceReply:
    token = response.request.headers.get("authorization")
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return ServiceReply(
            text=response.content,
            document={},
            problem=f"what answers at {base} is not this service (HTTP {response.status_code}):"
            f" {excerpt(response.text)}",
        )
    problem = None
    if response.status_code not in (200, 202) and "verdict" not in document:
        problem = f"{document.get('title', f'HTTP {response.status_code}')}: {document.get('detail', '')}"
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            problem = f"the service at {base} {_UNAUTHENTICATED if token is None else _UNKNOWN_CREDENTIALS}"
    return ServiceReply(text=response.content, document=document, problem=problem)


def _credentials(token: SecretStr | None) -> dict[str, str]:
    if token is None or not token.get_secret_value():
        return {}
    if not _TOKEN.fullmatch(token.get_secret_value()):
        # Checked here, because the HTTP library's own error would show the token in full.
        exit_with_error("AWAKEABLES_TOKEN has a space or another character that is not allowed in a token")
    return {"authorization": f"Bearer {token.get_secret_value()}"}


def _without_none(query: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}
