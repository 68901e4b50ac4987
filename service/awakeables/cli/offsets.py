"""`offsets`: how far the completions topic is read, and a batch that can't be opened."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import Config, Json, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import fail, print_json, print_table, say

group = typer.Typer(
    help="See how far the completions topic is read; skip what can't be.", no_args_is_help=True
)


_TABLE = TableLayout(
    names=("topic", "partition", "next", "end", "lag", "epoch", "problem"), spare=("epoch",), prose="problem"
)


@group.command()
def show(wide: Wide = False, url: Url = None, json_: Json = False, config: Config = None) -> None:
    """Show each partition's position, its end, and what is wrong with it."""
    answer = ServiceClient(config, url).get("offsets").or_fail()
    if json_:
        print_json(answer.text)
    else:
        print_table(_TABLE, answer.document["items"], none="no partitions are read yet", wide=wide)


@group.command()
def skip(
    partition: Annotated[int, typer.Argument(min=0, metavar="PARTITION", help="Of the completions topic.")],
    to: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="OFFSET",
            help="Go on here, also backwards, instead of behind the batch that can't be opened.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    url: Url = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """Skip a batch that can't be opened. Its completions are lost to the service for good.

    A dead letter with the code `skipped` keeps where it was. `--to` may lie behind what was read: it
    is read again, as after the topic was made anew.
    """
    client = ServiceClient(config, url)
    if not yes:
        _ask(_row(client, partition), to)
    answer = client.post("offsets", str(partition), "skip", to=to).or_fail()
    if json_:
        print_json(answer.text)
    else:
        say(f"partition {partition} is read on from {answer.document['next']}")


def _row(client: ServiceClient, partition: int) -> dict[str, Any]:
    items: list[dict[str, Any]] = client.get("offsets").or_fail().document["items"]
    for item in items:
        if item["partition"] == partition:
            return item
    known = ", ".join(str(item["partition"]) for item in items) or "none"
    fail(f"there is no partition {partition}; there are: {known}")


def _ask(row: dict[str, Any], to: int | None) -> None:
    say(
        f"{row['topic']}/{row['partition']} stands at {row['next']} of {row['end']}: {row['problem'] or 'ok'}"
    )
    if to is not None and to < row["next"]:
        question = f"Read it again from {to}? What was settled is told the same and not applied twice."
    else:
        what = "the batch that can't be opened" if to is None else f"all up to {to}"
        question = f"Skip {what}? What is skipped is never read."
    typer.confirm(question, abort=True, err=True)
