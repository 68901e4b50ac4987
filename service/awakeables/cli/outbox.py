"""`outbox`: list and show records that are not in Kafka yet; resend those that Kafka rejected."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Before, Config, Limit, Url, Wide
from awakeables.cli.resend import resend_each
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_page

group = typer.Typer(
    help="List, show or resend records that Kafka rejected; list those not published yet.",
    no_args_is_help=True,
)

_TABLE = TableLayout(
    names=("id", "topic", "created", "invocation", "awakeable", "reason"),
    spare=("invocation", "awakeable", "created"),
    prose="reason",
)


class OutboxState(StrEnum):
    failed = "failed"
    unsent = "unsent"


@group.command("list")
def list_(
    state: Annotated[
        OutboxState, typer.Option(help="failed: rejected by Kafka; unsent: not published yet.")
    ] = OutboxState.failed,
    limit: Limit = 50,
    before: Before = None,
    wide: Wide = False,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """List records that Kafka rejected, or those not published yet, newest first."""
    client = ServiceClient(config, url)
    page = client.get("outbox", state=state.value, limit=limit, before=before).or_exit()
    if json_:
        print_json(page.text)
    else:
        print_page(_TABLE, page.document, none=f"no {state.value} records", wide=wide)


@group.command()
def show(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The record, evt_1… or dlq_1….")],
    url: Url = None,
    config: Config = None,
) -> None:
    """Show a record with its key, value and headers, as JSON."""
    print_json(ServiceClient(config, url).get("outbox", event_id).or_exit().text)


@group.command()
def resend(
    event_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Records, evt_1… or dlq_1….")],
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Resend records that Kafka rejected. Later records of the same invocation have overtaken them.

    If one can't be resent, the others still are, and the exit code is 1.
    """
    resend_each(ServiceClient(config, url), "outbox", event_ids, json_=json_)
