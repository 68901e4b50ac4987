"""The API's own documentation: `/openapi.json`, `/asyncapi.json`, `/docs`."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any, Final

import msgspec

from awakeables.api import Api
from awakeables.web.describing import page
from awakeables.web.describing.asyncapi import asyncapi
from awakeables.web.describing.openapi import openapi
from awakeables.web.request import HttpRequest, Response, response

PAGE_HEADERS: Final = (
    (b"content-security-policy", page.POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
)


class DocumentRoutes:
    """The routes of the documents. Each is generated on first request and then kept."""

    def __init__(self, api: Api, *, guarded: bool) -> None:
        """Describe a service.

        Args:
            api: The service to describe.
            guarded: Whether requests need tokens.
        """
        self._api = api
        self._guarded = guarded
        self._openapi_of = lru_cache(maxsize=1)(self._described)
        self._page_at = lru_cache(maxsize=8)(self._rendered)

    async def openapi(self, _request: HttpRequest) -> Response:
        return response(self._openapi_of(self._api.app.learned)[1])

    async def asyncapi(self, _request: HttpRequest) -> Response:
        return response(self._asyncapi_text)

    async def page(self, request: HttpRequest) -> Response:
        text = self._page_at(_base_url(request), self._api.app.learned)
        return response(text.encode(), b"text/html; charset=utf-8", headers=PAGE_HEADERS)

    def _rendered(self, base: str, learned: int) -> str:
        return page.page(self._openapi_of(learned)[0], base=base, guarded=self._guarded)

    def _described(self, _learned: int) -> tuple[dict[str, Any], bytes]:
        """The OpenAPI document, and its text; another once remote services have been read again."""
        document = openapi(self._api.app, version=self._api.build)
        return document, msgspec.json.encode(document)

    @cached_property
    def _asyncapi_text(self) -> bytes:
        api = self._api
        return msgspec.json.encode(asyncapi(api.app, version=api.build, verdicts=api.publishes_verdicts))


def _base_url(request: HttpRequest) -> str:
    """The service's URL as the reader sees it: behind a proxy, host and scheme may differ from ours."""
    scheme = "https" if request.header(b"x-forwarded-proto") == "https" else "http"
    return f"{scheme}://{request.header(b'host') or 'localhost'}"
