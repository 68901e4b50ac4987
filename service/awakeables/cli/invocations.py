"""`resume`, `cancel`, `kill`: an invocation that needs an operator."""

from __future__ import annotations

from typing import Annotated

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url
from awakeables.cli.terminal import print_json, print_line

InvocationArgument = Annotated[str, typer.Argument(metavar="ID", help="The invocation, inv_1….")]


def resume(
    invocation_id: InvocationArgument, url: Url = None, json_: AsJson = False, config: Config = None
) -> None:
    """Run a paused or backing-off invocation now."""
    row = ServiceClient(config, url).post("invocations", invocation_id, "resume").or_exit()
    print_json(row.text) if json_ else print_line(f"{invocation_id}: {row.document['status']}")


def cancel(
    invocation_id: InvocationArgument, url: Url = None, json_: AsJson = False, config: Config = None
) -> None:
    """Cancel an invocation: its handler gets `Cancelled` at its next await and can clean up."""
    row = ServiceClient(config, url).post("invocations", invocation_id, "cancel").or_exit()
    if json_:
        print_json(row.text)
        return
    status = row.document["status"]
    pending = f"{status}; its handler gets `Cancelled` at its next await"
    print_line(f"{invocation_id}: {row.document.get('ended') or pending}")


def kill(
    invocation_id: InvocationArgument, url: Url = None, json_: AsJson = False, config: Config = None
) -> None:
    """End an invocation at once, without notice: its handler can't clean up. Try `cancel` first."""
    row = ServiceClient(config, url).post("invocations", invocation_id, "kill").or_exit()
    print_json(row.text) if json_ else print_line(f"{invocation_id}: killed")
