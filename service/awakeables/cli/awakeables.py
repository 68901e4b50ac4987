"""`resolve`, `reject`: complete an awakeable by hand."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from awakeables.cli.client import ServiceClient, ServiceReply
from awakeables.cli.options import AsJson, Config, Url
from awakeables.cli.terminal import exit_with_error, print_json, print_line

AwakeableArgument = Annotated[str, typer.Argument(metavar="ID", help="The awakeable, prom_1….")]


def resolve(
    awakeable_id: AwakeableArgument,
    value: Annotated[str, typer.Argument(help="The value as JSON.")] = "null",
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Resolve an awakeable with a JSON value."""
    reply = ServiceClient(config, url).post("awakeables", awakeable_id, "resolve", body=value)
    _print_verdict(reply.or_exit(), json_)


def reject(
    awakeable_id: AwakeableArgument,
    reason: Annotated[str, typer.Argument(help="What went wrong, in words.")],
    code: Annotated[int, typer.Option(help="An HTTP-like status code for the handler.")] = 500,
    details: Annotated[str | None, typer.Option(help="Details as JSON.")] = None,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Reject an awakeable with a reason."""
    body: dict[str, Any] = {"reason": reason, "code": code}
    if details is not None:
        try:
            body["details"] = json.loads(details)
        except ValueError as error:
            exit_with_error(f"--details is not JSON: {error}")
    reply = ServiceClient(config, url).post("awakeables", awakeable_id, "reject", body=json.dumps(body))
    _print_verdict(reply.or_exit(), json_)


def _print_verdict(reply: ServiceReply, as_json: bool) -> None:
    verdict = reply.document["verdict"]
    if as_json:
        print_json(reply.text)
    else:
        detail = reply.document.get("reason") or reply.document.get("detail")
        print_line(verdict + (f": {detail}" if detail else ""))
    if verdict not in ("accepted", "duplicate"):
        raise typer.Exit(1)
