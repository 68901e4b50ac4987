"""`dead-letters`: records that could not be used, looked at and sent again."""

from __future__ import annotations

from typing import Annotated

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import Before, Config, Json, Limit, Url, Wide, checked_duration
from awakeables.cli.resending import resend_each
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import fail, print_json, print_page, say

group = typer.Typer(
    help="Look at completions, and tasks, that could not be used, and send them again.", no_args_is_help=True
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
    json_: Json = False,
    config: Config = None,
) -> None:
    """List dead letters, newest first."""
    page = ServiceClient(config, url).get("dead-letters", limit=limit, before=before).or_fail()
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
    """Show one with its key, value and headers, as JSON."""
    print_json(ServiceClient(config, url).get("dead-letters", letter_id).or_fail().text)


@group.command()
def purge(
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Only those of at least this age, as 7d, 12h or PT30M.",
            show_default=False,
            callback=checked_duration,
        ),
    ] = None,
    code: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those with this code.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    url: Url = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """Delete dead letters, by age, by code or both. The copies on the dead-letter topic stay."""
    if older_than is None and code is None:
        fail("say which: --older-than 7d, --code unreadable, or both")
    if not yes:
        which = " ".join(("dead letters", *((f"with the code {code}",) if code else ())))
        age = f" older than {older_than}" if older_than else ""
        typer.confirm(f"Delete all {which}{age}? They can't be sent again then.", abort=True, err=True)
    answer = (
        ServiceClient(config, url).post("dead-letters", "purge", older_than=older_than, code=code).or_fail()
    )
    if json_:
        print_json(answer.text)
    else:
        say(f"{answer.document['count']} dead letters deleted")


@group.command()
def resend(
    letter_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Dead letters, dlq_1….")],
    url: Url = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """Send them again to the topic that they came from, as they were.

    One that can't be sent doesn't keep the others back; the exit code is 1 then.
    """
    resend_each(ServiceClient(config, url), "dead-letters", letter_ids, json_=json_)
