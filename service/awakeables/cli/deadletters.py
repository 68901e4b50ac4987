"""`dead-letters`: list, show, resend and purge records that could not be processed."""

from __future__ import annotations

from typing import Annotated

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Before, Config, Limit, Url, Wide, checked_duration
from awakeables.cli.resend import resend_each
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import exit_with_error, print_json, print_line, print_page

group = typer.Typer(
    help="List, show, resend or purge completions and tasks that could not be processed.",
    no_args_is_help=True,
)

_TABLE = TableLayout(
    names=("id", "code", "topic", "partition", "offset", "at", "resent", "reason"),
    spare=("resent", "at", "offset", "partition"),
    prose="reason",
)


@group.command("list")
def list_(
    limit: Limit = 50,
    before: Before = None,
    wide: Wide = False,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """List dead letters, newest first."""
    page = ServiceClient(config, url).get("dead-letters", limit=limit, before=before).or_exit()
    if json_:
        print_json(page.text)
    else:
        print_page(_TABLE, page.document, none="no dead letters", wide=wide)


@group.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter, dlq_1….")],
    url: Url = None,
    config: Config = None,
) -> None:
    """Show a dead letter with its key, value and headers, as JSON."""
    print_json(ServiceClient(config, url).get("dead-letters", letter_id).or_exit().text)


@group.command()
def purge(
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Only those at least this old, such as 7d, 12h or PT30M.",
            show_default=False,
            callback=checked_duration,
        ),
    ] = None,
    code: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those with this code.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Delete dead letters by age, by code, or both. Their copies in the dead-letter topic are kept."""
    if older_than is None and code is None:
        exit_with_error("nothing is selected: give --older-than 7d, --code unreadable, or both")
    if not yes:
        which = f" with code {code}" if code else ""
        age = f" older than {older_than}" if older_than else ""
        typer.confirm(
            f"Delete all dead letters{which}{age}? They can't be resent afterwards.", abort=True, err=True
        )
    reply = (
        ServiceClient(config, url).post("dead-letters", "purge", older_than=older_than, code=code).or_exit()
    )
    if json_:
        print_json(reply.text)
    else:
        print_line(f"{reply.document['count']} dead letters deleted")


@group.command()
def resend(
    letter_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Dead letters, dlq_1….")],
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Resend dead letters, unchanged, to the topic that they came from.

    If one can't be resent, the others still are, and the exit code is 1.
    """
    resend_each(ServiceClient(config, url), "dead-letters", letter_ids, json_=json_)
