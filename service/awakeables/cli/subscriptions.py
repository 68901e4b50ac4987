"""`subscriptions`: how far each has read its topic; pausing, resuming and moving one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_line, print_table

group = typer.Typer(help="List subscriptions; pause, resume or move one.", no_args_is_help=True)

_TABLE = TableLayout(
    names=("subscription", "topic", "handler", "partition", "next", "end", "lag", "open", "state"),
    spare=("end", "handler", "topic"),
    prose="state",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The subscription's name.")]


@group.command("list")
def list_(wide: Wide = False, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """List each subscription and partition: position, end, lag, and what it waits for."""
    reply = ServiceClient(config, url).get("subscriptions").or_exit()
    if json_:
        print_json(reply.text)
    else:
        rows = [row for each in reply.document["items"] for row in _rows(each)]
        print_table(_TABLE, rows, none="the app has no subscriptions", wide=wide)


@group.command()
def pause(name: Name, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """Begin nothing for the records of a subscription until it is resumed; what has begun goes on."""
    reply = ServiceClient(config, url).post("subscriptions", name, "pause").or_exit()
    print_json(reply.text) if json_ else print_line(f"{name}: paused; {_open(reply.document)}")


@group.command()
def resume(name: Name, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """Go on with a subscription where it was paused, or moved to."""
    reply = ServiceClient(config, url).post("subscriptions", name, "resume").or_exit()
    print_json(reply.text) if json_ else print_line(f"{name}: resumed; {_open(reply.document)}")


@group.command()
def seek(
    name: Name,
    to: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="earliest, latest, an offset, or an instant such as 2026-11-30T12:00:00Z.",
            show_default=False,
        ),
    ],
    partition: Annotated[
        int | None, typer.Option(min=0, help="Move this partition alone.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Move a paused subscription. Records between the two places are read again, or never."""
    client = ServiceClient(config, url)
    if not yes:
        what = name if partition is None else f"partition {partition} of {name}"
        question = f"Move {what} to {to}? Going back repeats the handler for each record; forward skips them."
        typer.confirm(question, abort=True, err=True)
    reply = client.post("subscriptions", name, "seek", to=to, partition=partition).or_exit()
    if json_:
        print_json(reply.text)
        return
    for move in reply.document["items"]:
        print_line(_moved(move))
    if not reply.document["items"]:
        print_line(f"{name} is there already")


def _rows(subscription: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per partition; one without, for a subscription that has read none."""
    common = {
        "subscription": subscription["name"],
        "topic": subscription["topic"],
        "handler": subscription["handler"],
        "open": subscription["open"],
    }
    partitions = subscription["partitions"] or [dict.fromkeys(("partition", "next", "end", "lag"))]
    return [{**partition, **common, "state": _state(subscription, partition)} for partition in partitions]


def _state(subscription: dict[str, Any], partition: dict[str, Any]) -> str:
    if subscription["handler"] is None:
        return "no handler has it any more"
    if subscription["paused"] is not None:
        return f"paused since {subscription['paused']}"
    problem = partition.get("problem") or "; ".join(subscription["problems"])
    return problem or partition.get("waits") or "ok"


def _open(subscription: dict[str, Any]) -> str:
    count = subscription["open"]
    return f"{count:,} of its invocations {'is' if count == 1 else 'are'} open"


def _moved(move: dict[str, Any]) -> str:
    before, next_ = move["before"], move["next"]
    offsets = abs(next_ - before)
    what = f"{offsets:,} offsets are {'passed over' if next_ > before else 'read again'}"
    return f"partition {move['partition']}: from {before} to {next_}; {what}"
