"""`/docs`: for people, from this service alone, without a script."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import httpx
import pytest

from awakeables.handlers.context import Context
from awakeables.handlers.service import App, Service
from awakeables.web.describing.openapi import openapi
from awakeables.web.describing.page import STYLE, page
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


async def test_every_operation_and_every_schema_is_there_and_links_lead_to_them(web: Web) -> None:
    document = (await web.client.get("/openapi.json")).json()
    told = Reader((await web.client.get("/docs")).text)
    ids = told.all("id")
    assert len(set(ids)) == len(ids)
    expected = {
        operation["operationId"] for item in document["paths"].values() for operation in item.values()
    }
    expected |= {f"schema-{name}" for name in document["components"]["schemas"]}
    assert expected <= set(ids)
    links = set(told.all("href"))
    # Relative: the page may be reached below a path of a proxy's.
    assert links - {f"#{name}" for name in ids} == {"openapi.json", "asyncapi.json"}
    assert "limit" in "".join(told.texts)


def said(response: httpx.Response) -> str:
    return "".join(Reader(response.text).texts)


async def test_case_u9_the_commands_to_try_reach_this_service_as_the_reader_does(web: Web) -> None:
    headers = {"host": "localhost:18080"}
    text = said(await web.client.get("/docs", headers=headers))
    assert "curl -X POST http://localhost:18080/orders/greet" in text
    body = """-H 'content-type: application/json' --data-binary '{"id": "text"}'"""
    assert f"curl http://localhost:18080/orders/echo {body}" in text
    assert "curl -X POST 'http://localhost:18080/carts/{key}/size'" in text
    assert "curl -X PATCH 'http://localhost:18080/objects/{object}/{key}/state' -H 'content-type: " in text
    assert "8080/" not in text.replace("18080/", "")
    behind_tls = said(await web.client.get("/docs", headers=headers | {"x-forwarded-proto": "https"}))
    assert "curl -X POST https://localhost:18080/orders/greet" in behind_tls


async def test_case_u9_tokens_are_spoken_of_where_there_are_some(web: Web) -> None:
    text = said(await web.client.get("/docs"))
    assert "Bearer $" not in text
    assert "(token with" not in text
    document = (await web.client.get("/openapi.json")).json()
    guarded = "".join(Reader(page(document, base="http://h", guarded=True)).texts)
    assert """curl -X POST http://h/orders/greet -H "authorization: Bearer $AWAKEABLES_TOKEN\"""" in guarded
    assert "curl http://h/health/live\n" not in guarded
    assert "(token with call)" in guarded


async def test_case_u9_code_is_shown_as_code(web: Web) -> None:
    text = re.sub(r"<pre>.*?</pre>", "", (await web.client.get("/docs")).text, flags=re.DOTALL)
    assert "`" not in text
    assert "<code>wait=N</code>" in text


async def test_case_u9_a_screen_reader_finds_its_way(web: Web) -> None:
    text = (await web.client.get("/docs")).text
    told = Reader(text)
    assert '<html lang="en">' in text
    assert re.findall(r"<title>(.+)</title>", text)
    assert {"header", "nav", "main"} <= told.tags
    body = text.partition("<body>")[2]
    assert re.fullmatch(r"<header>.*</header><nav.*</nav><main>.*</main></body></html>", body, re.DOTALL)
    levels = [int(level) for level in re.findall(r"<h(\d)>", text)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    tables = re.findall(r"<table>(.*?)</table>", text)
    assert tables
    for table in tables:
        assert re.match(r'<thead><tr>(<th scope="col">[^<]+</th>)+</tr></thead><tbody>', table)
        assert all(row.startswith('<th scope="row">') for row in re.findall(r"<tr>(.*?)</tr>", table)[1:])


def luminance(color: str) -> float:
    digits = color.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_case_u9_every_text_has_the_contrast_of_wcag_aa(scheme: str) -> None:
    light, _, dark = STYLE.partition("prefers-color-scheme: dark")
    colors = dict(re.findall(r"--(\w+): (#\w+)", light if scheme == "light" else dark))
    texts = {name for name in re.findall(r"[^-]color: var\(--(\w+)\)", STYLE)}
    assert texts == {"text", "link", "faint", "get", "post"}
    for background in ("page", "panel"):
        for text in texts:
            assert contrast(colors[text], colors[background]) >= 4.5, (text, background)
    # Nothing has a color from elsewhere, or fades.
    assert "opacity" not in STYLE
    assert len(re.findall(r"#[0-9a-f]{3,}", STYLE)) == 2 * len(colors)


def test_case_u9_nothing_is_wider_than_a_phone() -> None:
    assert "overflow-wrap: anywhere" in STYLE
    assert "white-space: pre-wrap" in STYLE
    assert not re.findall(r"[^-]width: [\d.]+(?:px|r?em)", STYLE)
    assert "nowrap" not in STYLE


def test_words_of_a_handler_can_not_become_markup() -> None:
    service = Service("shop")

    @service.handler()
    async def tag(ctx: Context) -> Any: ...

    tag.__doc__ = "<script>alert(1)</script>\n\n\"'><img src=x onerror=alert(1)>&amp;"
    service = Service("shop")
    service.handler()(tag)
    document = openapi(App("shop", services=[service]), version="1")
    told = Reader(page(document, base="http://h", guarded=False))
    assert not told.tags & {"script", "img"}
    assert "<script>alert(1)</script>" in "".join(told.texts)
    assert "onerror=alert(1)>&amp;" in "".join(told.texts)
