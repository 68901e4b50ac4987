"""The OpenAPI document as an HTML page, without scripts or external resources."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from html import escape
from typing import Final

from awakeables.handlers.sample import sample_of
from awakeables.web.describing.contract import Json

STYLE: Final = """
:root { color-scheme: light dark;
  --page: #fff; --text: #1c1e21; --faint: #55595f; --panel: #f2f4f6; --line: #c4c8cd;
  --link: #0a4fb3; --get: #0a4fb3; --post: #0b6330; }
@media (prefers-color-scheme: dark) { :root {
  --page: #15171a; --text: #e6e8ea; --faint: #b0b5bb; --panel: #22262b; --line: #4a5057;
  --link: #8ab8ff; --get: #8ab8ff; --post: #7fd49a; } }
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem;
  background: var(--page); color: var(--text); overflow-wrap: anywhere; }
a { color: var(--link); }
h2 { margin: 2.5rem 0 .5rem; } h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; padding: .2rem 0; } summary code { font-weight: 600; }
code, pre { font-family: ui-monospace, monospace; font-size: .875rem; }
pre { white-space: pre-wrap; padding: .6rem; background: var(--panel); border-radius: .3rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { padding: .25rem .6rem .25rem 0; text-align: left; vertical-align: top; font-weight: 400;
  border-top: 1px solid var(--line); }
th:first-child { width: 25%; min-width: 9rem; } thead th { border: 0; color: var(--faint); }
.method { font-weight: 600; } .get { color: var(--get); } .post, .patch { color: var(--post); }
.note { color: var(--faint); }
"""
_DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: it allows this style and nothing else."""

_code = re.compile(r"(`+)(.+?)\1", re.DOTALL)


def page(document: Json, *, base: str, guarded: bool) -> str:
    """Render the page.

    Args:
        document: An OpenAPI document made by `openapi`. All texts are escaped: handlers' names and
            docstrings are among them.
        base: The service's URL as the reader sees it, for the examples.
        guarded: Whether requests need tokens.
    """
    info = document["info"]
    tags = [tag["name"] for tag in document["tags"]]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    contents = [(f"tag-{tag}", tag) for tag in tags] + [("schemas", "Schemas")]
    links = [f'<li><a href="#{escape(anchor)}">{escape(name)}</a></li>' for anchor, name in contents]
    schemas = document["components"]["schemas"].items()
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: HTTP API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><header><h1>{title}</h1>{_prose(info['description'])}"
        '<p><a href="openapi.json">openapi.json</a> <a href="asyncapi.json">asyncapi.json</a></p></header>'
        f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav><main>'
        f"{''.join(_group(document, tag, base=base, guarded=guarded) for tag in tags)}"
        f'<section id="schemas"><h2>Schemas</h2>{"".join(_named(*schema) for schema in schemas)}</section>'
        "</main></body></html>"
    )


def _group(document: Json, tag: str, *, base: str, guarded: bool) -> str:
    found = [
        _operation(document, method, path, operation, base=base, guarded=guarded)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if tag in operation["tags"]
    ]
    return f'<section id="tag-{escape(tag)}"><h2>{escape(tag)}</h2>{"".join(found)}</section>'


def _operation(document: Json, method: str, path: str, operation: Json, *, base: str, guarded: bool) -> str:
    scopes = (
        ", ".join(scope for given in operation["security"] for scope in given["token"]) if guarded else ""
    )
    curl = _curl(document, method, path, operation, base=base, guarded=guarded)
    parts = [
        _prose(operation.get("description", "")),
        _table(
            ("Parameter", "Meaning"),
            (_parameter(_found(document, given)) for given in operation["parameters"]),
        ),
        _table(
            ("Body", "Schema"),
            (
                (escape(media_type), _schema(part))
                for media_type, part in operation.get("requestBody", {}).get("content", {}).items()
            ),
        ),
        _table(
            ("Response", "Meaning"),
            (_answer(document, *answer) for answer in operation["responses"].items()),
        ),
        f"<h3>Try it</h3><pre><code>{escape(curl)}</code></pre>",
    ]
    scope = f' <span class="note">(token with {escape(scopes)})</span>' if scopes else ""
    return (
        f'<details id="{escape(operation["operationId"])}"><summary>'
        f'<span class="method {method}">{method.upper()}</span>'
        f" <code>{escape(path)}</code> {_text(operation['summary'])}{scope}</summary>"
        f"{''.join(parts)}</details>"
    )


def _parameter(given: Json) -> tuple[str, str]:
    required = ", required" if given.get("required") else ""
    where = f'<span class="note">{given["in"]}{required}</span>'
    return (
        f"<code>{escape(given['name'])}</code><br>{where}",
        f"{_text(given['description'])} {_schema(given)}",
    )


def _answer(document: Json, status: str, answer: Json) -> tuple[str, str]:
    found = _found(document, answer)
    shown = [f"{escape(media_type)}: {_schema(content)}" for media_type, content in found["content"].items()]
    return f"<code>{status}</code>", "<br>".join([_text(found["description"]), *shown])


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of HTML cells; the first of each row is its header. Empty if there are no rows."""
    lines = [
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
        for first, *others in rows
    ]
    if not lines:
        return ""
    named = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f"<table><thead><tr>{named}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _schema(holder: Json) -> str:
    schema = holder.get("schema") or {}
    name = schema.get("$ref", "").rpartition("/")[2]
    if name:
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    return f"<code>{escape(json.dumps(schema, ensure_ascii=False))}</code>" if schema else "anything"


def _named(name: str, schema: Json) -> str:
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    return (
        f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"<pre><code>{escape(text)}</code></pre></details>"
    )


def _curl(document: Json, method: str, path: str, operation: Json, *, base: str, guarded: bool) -> str:
    words = ["curl"]
    if method == "patch" or (method == "post" and "requestBody" not in operation):
        words += ["-X", method.upper()]
    words.append(f"{base}{path}")
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        media_type = next(iter(content))
        schema = content[media_type].get("schema")
        body = sample_of(schema, document) if "json" in media_type and schema else "@file"
        words += ["-H", f"content-type: {media_type}", "--data-binary", body]
    # Double quotes, so that the shell expands the variable.
    header = ' -H "authorization: Bearer $AWAKEABLES_TOKEN"' if guarded and operation["security"] else ""
    return shlex.join(words) + header


def _prose(text: str) -> str:
    """A docstring's paragraphs."""
    return "".join(f"<p>{_text(part.strip())}</p>" for part in re.split(r"\n\s*\n", text) if part.strip())


def _text(text: str) -> str:
    """A text that marks code with backticks, as Markdown and docstrings do."""
    parts = _code.split(text)
    whole = ""
    for plain, _, code in zip(parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True):
        whole += escape(plain) + (f"<code>{escape(code)}</code>" if code else "")
    return whole


def _found(document: Json, given: Json) -> Json:
    """The target of a reference; anything else is returned unchanged."""
    found: Json = given
    if "$ref" in given:
        found = document
        for name in given["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return found
