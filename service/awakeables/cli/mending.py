"""`resume`, `cancel`, `kill`: an invocation that an operator has to see to."""

from __future__ import annotations

from typing import Annotated

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import Config, Json, Url
from awakeables.cli.terminal import print_json, say

InvocationId = Annotated[str, typer.Argument(metavar="ID", help="The invocation, inv_1….")]


def resume(invocation_id: InvocationId, url: Url = None, json_: Json = False, config: Config = None) -> None:
    """Let a paused or backing-off invocation run again, now."""
    row = ServiceClient(config, url).post("invocations", invocation_id, "resume").or_fail()
    print_json(row.text) if json_ else say(f"{invocation_id}: {row.document['status']}")


def cancel(invocation_id: InvocationId, url: Url = None, json_: Json = False, config: Config = None) -> None:
    """Cancel an invocation: its handler gets `Cancelled` at its next await, and may still clean up."""
    row = ServiceClient(config, url).post("invocations", invocation_id, "cancel").or_fail()
    if json_:
        print_json(row.text)
        return
    status = row.document["status"]
    told = row.document.get("ended") or f"{status}, its handler is told once, at its next await"
    say(f"{invocation_id}: {told}")


def kill(invocation_id: InvocationId, url: Url = None, json_: Json = False, config: Config = None) -> None:
    """End an invocation at once: its handler gets no notice, and can't clean up. Try `cancel` first."""
    row = ServiceClient(config, url).post("invocations", invocation_id, "kill").or_fail()
    print_json(row.text) if json_ else say(f"{invocation_id}: killed")
