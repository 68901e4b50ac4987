"""`/docs`: for people, from this service alone, without a script."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

from awakeables.handlers.context import Context
from awakeables.handlers.service import App, Service
from awakeables.web.describing.openapi import openapi
from awakeables.web.describing.page import page
from unit.web.harness import Web

VOID = ("meta", "br")


class Reader(HTMLParser):
    """What stands in a page; every element that is opened must be closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[str]:
        return [value or "" for attribute, value in self.attributes if attribute == name]


async def test_the_page_loads_nothing_and_may_not(web: Web) -> None:
    response = await web.client.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    [style] = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    told = Reader(response.text)
    assert not told.tags & {"script", "img", "link", "iframe", "form", "object"}
    assert not {"style", "src"} & {name for name, _ in told.attributes}
    assert not [name for name, _ in told.attributes if name.startswith("on")]


async def test_every_operation_and_every_schema_stands_there_and_links_lead_to_them(web: Web) -> None:
    document = (await web.client.get("/openapi.json")).json()
    told = Reader((await web.client.get("/docs")).text)
    ids = told.all("id")
    assert len(set(ids)) == len(ids)
    expected = {
        operation["operationId"] for item in document["paths"].values() for operation in item.values()
    }
    expected |= {f"schema-{name}" for name in document["components"]["schemas"]}
    assert set(ids) == expected
    links = set(told.all("href"))
    assert links - {f"#{name}" for name in ids} == {"/openapi.json", "/asyncapi.json"}
    text = "".join(told.texts)
    assert "curl localhost:8080/orders/echo -H 'authorization: Bearer …'" in text
    assert "curl -X POST localhost:8080/orders/greet " in text
    assert "limit" in text


async def test_words_of_a_handler_can_not_become_markup(web: Web) -> None:
    service = Service("shop")

    @service.handler()
    async def tag(ctx: Context) -> Any: ...

    tag.__doc__ = "<script>alert(1)</script>\n\n\"'><img src=x onerror=alert(1)>&amp;"
    service = Service("shop")
    service.handler()(tag)
    document = openapi(App("shop", services=[service]), web.app._routes.rows, version="1")
    told = Reader(page(document))
    assert not told.tags & {"script", "img"}
    assert "<script>alert(1)</script>" in "".join(told.texts)
    assert "onerror=alert(1)>&amp;" in "".join(told.texts)
