"""`offsets`: the positions in the completions topic, and skipping a batch that can't be read."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import exit_with_error, print_json, print_line, print_table

group = typer.Typer(
    help="Show positions in the completions topic; skip a batch that can't be read.", no_args_is_help=True
)

_TABLE = TableLayout(
    names=("topic", "partition", "next", "end", "lag", "epoch", "problem"), spare=("epoch",), prose="problem"
)


@group.command()
def show(wide: Wide = False, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """Show each partition's position, end offset, lag and problem, if it has one."""
    reply = ServiceClient(config, url).get("offsets").or_exit()
    if json_:
        print_json(reply.text)
    else:
        print_table(_TABLE, reply.document["items"], none="no partitions are assigned yet", wide=wide)


@group.command()
def skip(
    partition: Annotated[
        int, typer.Argument(min=0, metavar="PARTITION", help="A partition of the completions topic.")
    ],
    to: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="OFFSET",
            help="Continue at this offset, even an earlier one, instead of after the unreadable batch.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Skip a batch that can't be read. The service never sees its completions.

    A dead letter with the code `skipped` records its offsets. With an earlier offset, `--to` reads
    records again, for example after the topic was recreated.
    """
    client = ServiceClient(config, url)
    if not yes:
        _confirm(_row(client, partition), to)
    reply = client.post("offsets", str(partition), "skip", to=to).or_exit()
    if json_:
        print_json(reply.text)
    else:
        print_line(f"partition {partition} continues at {reply.document['next']}")


def _row(client: ServiceClient, partition: int) -> dict[str, Any]:
    items: list[dict[str, Any]] = client.get("offsets").or_exit().document["items"]
    for item in items:
        if item["partition"] == partition:
            return item
    known = ", ".join(str(item["partition"]) for item in items) or "none"
    exit_with_error(f"there is no partition {partition}; this service reads: {known}")


def _confirm(row: dict[str, Any], to: int | None) -> None:
    print_line(
        f"{row['topic']}/{row['partition']} is at {row['next']} of {row['end']}: {row['problem'] or 'ok'}"
    )
    if to is not None and to < row["next"]:
        question = f"Read again from {to}? Completions that were already applied are not applied twice."
    else:
        what = "the batch that can't be read" if to is None else f"everything before {to}"
        question = f"Skip {what}? Skipped records are never read."
    typer.confirm(question, abort=True, err=True)
