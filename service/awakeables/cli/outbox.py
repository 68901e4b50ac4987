"""`outbox`: records that are not in Kafka, looked at, and sent again where Kafka has refused them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import Before, Config, Json, Limit, Url, Wide
from awakeables.cli.resending import resend_each
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_page

group = typer.Typer(
    help="Look at records that Kafka has refused, or has not got yet, and send refused ones again.",
    no_args_is_help=True,
)


_TABLE = TableLayout(
    names=("id", "topic", "created", "invocation", "awakeable", "reason"),
    spare=("invocation", "awakeable", "created"),
    prose="reason",
)


class State(StrEnum):
    failed = "failed"
    unsent = "unsent"


@group.command("list")
def list_(
    state: Annotated[State, typer.Option(help="Refused for good, or not yet in Kafka.")] = State.failed,
    limit: Limit = 50,
    before: Before = None,
    wide: Wide = False,
    url: Url = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """List records that Kafka has refused, or those that are unsent, newest first."""
    client = ServiceClient(config, url)
    page = client.get("outbox", state=state.value, limit=limit, before=before).or_fail()
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
    """Show one with its key, value and headers, as JSON."""
    print_json(ServiceClient(config, url).get("outbox", event_id).or_fail().text)


@group.command()
def resend(
    event_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Records, evt_1… or dlq_1….")],
    url: Url = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """Send records again that Kafka has refused; later ones of their invocations have passed them.

    One that can't be sent doesn't keep the others back; the exit code is 1 then.
    """
    resend_each(ServiceClient(config, url), "outbox", event_ids, json_=json_)
