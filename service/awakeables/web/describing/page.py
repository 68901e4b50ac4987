"""The OpenAPI document as a page for people: no script, nothing from elsewhere, one style."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterable
from html import escape
from typing import Any, Final

Json = dict[str, Any]

STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; } h4 { margin: 1rem 0 .25rem; }
details { border: 1px solid #8886; border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; } summary code { font-weight: 600; }
pre { overflow-x: auto; padding: .6rem; background: #8882; border-radius: .3rem; font-size: .85rem; }
table { border-collapse: collapse; width: 100%; } td { padding: .15rem .6rem .15rem 0; vertical-align: top; }
.method { display: inline-block; width: 3.2rem; color: #06c; } .post { color: #070; } .note { opacity: .7; }
:root { color-scheme: light dark; }
"""
_DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: this style and nothing else."""


def page(document: Json) -> str:
    """Write the page.

    Args:
        document: An OpenAPI document as `openapi` makes it. All of its texts are escaped: names
            and docstrings of handlers stand there.
    """
    info = document["info"]
    tags = [tag["name"] for tag in document["tags"]]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{escape(info['description'])}</p>"
        '<p><a href="/openapi.json">openapi.json</a> <a href="/asyncapi.json">asyncapi.json</a></p>'
        f"{''.join(_group(document, tag) for tag in tags)}<h2>Schemas</h2>"
        f"{''.join(_named(name, schema) for name, schema in document['components']['schemas'].items())}"
        "</body></html>"
    )


def _group(document: Json, tag: str) -> str:
    found = [
        _operation(document, method, path, told)
        for path, item in document["paths"].items()
        for method, told in item.items()
        if tag in told["tags"]
    ]
    return f"<h2>{escape(tag)}</h2>{''.join(found)}"


def _operation(document: Json, method: str, path: str, told: Json) -> str:
    scopes = ", ".join(scope for given in told["security"] for scope in given["token"])
    parts = [
        f"<p>{escape(told['description'])}</p>" if "description" in told else "",
        _table("Parameters", (_parameter(_found(document, given)) for given in told["parameters"])),
        _contents("Body", told.get("requestBody", {}).get("content", {})),
        _table("Answers", (_answer(document, *answer) for answer in told["responses"].items())),
        f"<h4>Try it</h4><pre>{escape(_curl(method, path, told))}</pre>",
    ]
    return (
        f'<details id="{escape(told["operationId"])}"><summary><span class="method {method}">{method.upper()}'
        f"</span> <code>{escape(path)}</code> {escape(told['summary'])}"
        f"{f' <span class=note>[{escape(scopes)}]</span>' if scopes else ''}</summary>"
        f"{''.join(parts)}</details>"
    )


def _parameter(given: Json) -> tuple[str, str, str]:
    required = ", required" if given.get("required") else ""
    where = f"{given['in']}{required}"
    return f"<code>{escape(given['name'])}</code>", where, f"{escape(given['description'])} {_schema(given)}"


def _answer(document: Json, status: str, answer: Json) -> tuple[str, str, str]:
    found = _found(document, answer)
    shown = [f"{escape(media_type)} {_schema(told)}" for media_type, told in found["content"].items()]
    return f"<code>{status}</code>", escape(found["description"]), "<br>".join(shown)


def _contents(title: str, content: Json) -> str:
    return _table(title, ((escape(media_type), _schema(told)) for media_type, told in content.items()))


def _table(title: str, rows: Iterable[tuple[str, ...]]) -> str:
    """A table of cells that are HTML already; nothing if it has no rows."""
    lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    return f"<h4>{title}</h4><table>{''.join(lines)}</table>" if lines else ""


def _schema(told: Json) -> str:
    schema = told.get("schema") or {}
    name = schema.get("$ref", "").rpartition("/")[2]
    if name:
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    return f"<code>{escape(json.dumps(schema, ensure_ascii=False))}</code>" if schema else "anything"


def _named(name: str, schema: Json) -> str:
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    return (
        f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"<pre>{escape(text)}</pre></details>"
    )


def _curl(method: str, path: str, told: Json) -> str:
    words = ["curl"]
    if method == "post" and "requestBody" not in told:
        words += ["-X", "POST"]
    words.append(f"localhost:8080{path}")
    if told["security"]:
        words += ["-H", "authorization: Bearer …"]
    content = told.get("requestBody", {}).get("content", {})
    if content:
        media_type = next(iter(content))
        body = "{…}" if "json" in media_type else "@file"
        words += ["-H", f"content-type: {media_type}", "--data-binary", body]
    return shlex.join(words)


def _found(document: Json, given: Json) -> Json:
    """What a reference leads to; what is none, as it is."""
    found: Json = given
    if "$ref" in given:
        found = document
        for name in given["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return found
