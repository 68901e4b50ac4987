"""`list`, `show`: what there is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import Before, Config, Json, Limit, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import fail, print_json, print_page, tell
from awakeables.core import awakeables, invocations
from awakeables.core.texts import excerpt


class What(StrEnum):
    awakeables = "awakeables"
    invocations = "invocations"


_TABLES = {
    What.awakeables: TableLayout(
        names=("id", "state", "created", "deadline", "invocation"),
        spare=("invocation", "deadline", "created"),
    ),
    What.invocations: TableLayout(
        names=("id", "status", "ended", "service", "handler", "created", "attempts", "reason"),
        spare=("attempts", "created", "ended", "service"),
        prose="reason",
    ),
}

_STATES: dict[What, tuple[str, ...]] = {
    What.awakeables: awakeables.STATES,
    What.invocations: invocations.STATUSES,
}

_NOUNS = {"prom_": What.awakeables, "inv_": What.invocations}


def list_(  # noqa: PLR0913 - options of a command
    what: Annotated[What, typer.Argument()] = What.awakeables,
    state: Annotated[
        str | None,
        typer.Option(help="Only these: pending, resolved… or suspended, paused, completed…"),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Only invocations that were called with it.", show_default=False),
    ] = None,
    limit: Limit = 50,
    before: Before = None,
    wide: Wide = False,
    url: Url = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """List awakeables or invocations, newest first."""
    if state is not None and state not in _STATES[what]:
        raise typer.BadParameter(
            f"{state!r} is none of {', '.join(_STATES[what])}", param_hint=f"--state of {what.value}"
        )
    filter_ = {"state" if what is What.awakeables else "status": state}
    if idempotency_key is not None:
        if what is What.awakeables:
            raise typer.BadParameter("awakeables have none", param_hint="--idempotency-key")
        filter_["idempotency_key"] = idempotency_key
    page = ServiceClient(config, url).get(what.value, limit=limit, before=before, **filter_).or_fail()
    if json_:
        print_json(page.text)
    else:
        print_page(_TABLES[what], page.document, none=f"no {what.value}", wide=wide)


def show(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="An awakeable (prom_1…) or an invocation (inv_1…).")
    ],
    url: Url = None,
    config: Config = None,
) -> None:
    """Show everything about one awakeable or invocation, as JSON."""
    noun = next((noun for start, noun in _NOUNS.items() if id_.startswith(start)), None)
    if noun is None:
        fail(f"{excerpt(id_)} is neither an awakeable's ID (prom_1…) nor an invocation's (inv_1…)")
    shown = ServiceClient(config, url).get(noun.value, id_).or_fail()
    print_json(shown.text)
    dead = shown.document.get("dead_task")
    if dead is not None and shown.document["state"] == "pending":
        tell(f"its task is a dead letter of worker {dead['worker']!r} ({dead['code']}: {dead['reason']})")
        tell(f"mend the worker, then `awakeables dead-letters resend {dead['id']}`")
