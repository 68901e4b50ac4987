"""`functions`: where the handlers of remote services run, and what they have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_line, print_table

group = typer.Typer(help="List the functions of remote services; read one again.", no_args_is_help=True)

_TABLE = TableLayout(
    names=("service", "url", "build", "handlers", "requests", "state"), spare=("url", "build"), prose="state"
)


@group.command("list")
def list_(wide: Wide = False, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """List the function of each remote service: its build, its handlers, and why it gets no requests."""
    reply = ServiceClient(config, url).get("functions").or_exit()
    if json_:
        print_json(reply.text)
        return
    rows = [
        {**each, "handlers": _names(each), "state": each["problem"] or "ok"}
        for each in reply.document["items"]
    ]
    print_table(_TABLE, rows, none="the app has no remote services", wide=wide)


@group.command()
def refresh(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="The remote service.")],
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Read again which handlers a function has, with their inputs and results, after it was deployed.

    It is for the instance that is asked; each of several reads it by itself once the new deployment has
    answered a request, if `build=` tells the two apart.
    """
    reply = ServiceClient(config, url).post("functions", service, "refresh").or_exit()
    print_json(reply.text) if json_ else print_line(f"{service}: it has {_names(reply.document)}")


def _names(function: dict[str, Any]) -> str:
    """Its handlers, without the service before each."""
    return ", ".join(name.partition("/")[2] for name in function["handlers"]) or "no handlers"
