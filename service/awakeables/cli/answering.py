"""`resolve`, `reject`: complete an awakeable by hand."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from awakeables.cli.client import ServiceClient, ServiceReply
from awakeables.cli.options import Config, Json, Url
from awakeables.cli.terminal import fail, print_json, say

AwakeableId = Annotated[str, typer.Argument(metavar="ID", help="The awakeable, prom_1….")]


def resolve(
    awakeable_id: AwakeableId,
    value: Annotated[str, typer.Argument(help="The value as JSON.")] = "null",
    url: Url = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """Resolve an awakeable with a JSON value."""
    answer = ServiceClient(config, url).post("awakeables", awakeable_id, "resolve", body=value)
    _print_verdict(answer.or_fail(), json_)


def reject(
    awakeable_id: AwakeableId,
    reason: Annotated[str, typer.Argument(help="What happened, for people.")],
    code: Annotated[int, typer.Option(help="An HTTP-like number for the handler.")] = 500,
    details: Annotated[str | None, typer.Option(help="Details as JSON.")] = None,
    url: Url = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """Reject an awakeable with a reason."""
    body: dict[str, Any] = {"reason": reason, "code": code}
    if details is not None:
        try:
            body["details"] = json.loads(details)
        except ValueError as error:
            fail(f"--details is not JSON: {error}")
    answer = ServiceClient(config, url).post("awakeables", awakeable_id, "reject", body=json.dumps(body))
    _print_verdict(answer.or_fail(), json_)


def _print_verdict(answer: ServiceReply, as_json: bool) -> None:
    verdict = answer.document["verdict"]
    if as_json:
        print_json(answer.text)
    else:
        detail = answer.document.get("reason") or answer.document.get("detail")
        say(verdict + (f": {detail}" if detail else ""))
    if verdict not in ("accepted", "duplicate"):
        raise typer.Exit(1)
