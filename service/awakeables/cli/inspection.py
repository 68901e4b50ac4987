"""`list`, `show`: awakeables and invocations."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Before, Config, Limit, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import exit_with_error, print_exactly, print_json, print_note, print_page
from awakeables.core import awakeables, invocations
from awakeables.core.texts import excerpt


class Resource(StrEnum):
    awakeables = "awakeables"
    invocations = "invocations"


_TABLES = {
    Resource.awakeables: TableLayout(
        names=("id", "state", "created", "deadline", "invocation"),
        spare=("invocation", "deadline", "created"),
    ),
    Resource.invocations: TableLayout(
        names=(
            *("id", "status", "ended", "service", "key", "handler", "subscription"),
            *("created", "attempts", "reason"),
        ),
        spare=("attempts", "created", "ended", "subscription", "service", "key"),
        prose="reason",
    ),
}

_STATES: dict[Resource, tuple[str, ...]] = {
    Resource.awakeables: awakeables.STATES,
    Resource.invocations: (*invocations.STATUSES, "open"),
}

_NOUNS = {"prom_": Resource.awakeables, "inv_": Resource.invocations}


def list_(  # noqa: PLR0913 - options of a command
    what: Annotated[Resource, typer.Argument()] = Resource.awakeables,
    state: Annotated[
        str | None,
        typer.Option(
            help="Only those in this state: pending, resolved… or suspended, paused, completed, open…",
            show_default=False,
        ),
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="Only invocations of this service or object.", show_default=False)
    ] = None,
    handler: Annotated[
        str | None,
        typer.Option(
            metavar="[SERVICE/]HANDLER",
            help="Only invocations of this handler; its service can be given by --service, too.",
            show_default=False,
        ),
    ] = None,
    subscription: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only invocations for records of this subscription, as `subscriptions list` names it.",
            show_default=False,
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(help="Only invocations of the subscriptions of this topic.", show_default=False),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Only invocations with this idempotency key.", show_default=False),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="With --idempotency-key: the key of an object that they were called for.",
            show_default=False,
        ),
    ] = None,
    limit: Limit = 50,
    before: Before = None,
    wide: Wide = False,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """List awakeables or invocations, newest first."""
    if state is not None and state not in _STATES[what]:
        raise typer.BadParameter(
            f"{state!r} is not one of {', '.join(_STATES[what])}", param_hint=f"--state of {what.value}"
        )
    invocations_only = {
        "--service": service,
        "--handler": handler,
        "--subscription": subscription,
        "--topic": topic,
        "--idempotency-key": idempotency_key,
        "--key": key,
    }
    if what is Resource.awakeables:
        for option, value in invocations_only.items():
            if value is not None:
                raise typer.BadParameter("awakeables have none; list invocations", param_hint=option)
        filter_ = {"state": state}
    else:
        if key is not None and idempotency_key is None:
            raise typer.BadParameter("give --idempotency-key, too", param_hint="--key")
        if handler is not None:
            service, handler = _handler(service, handler, alone=idempotency_key is not None)
        filter_ = {
            "status": state,
            "service": service,
            "handler": handler,
            "subscription": subscription,
            "topic": topic,
            "idempotency_key": idempotency_key,
            "key": key,
        }
    page = ServiceClient(config, url).get(what.value, limit=limit, before=before, **filter_).or_exit()
    if json_:
        print_json(page.text)
    else:
        print_page(_TABLES[what], page.document, none=f"no {what.value}", wide=wide)


def _handler(service: str | None, handler: str, *, alone: bool) -> tuple[str | None, str]:
    """The names of a service and of its handler; `alone`: the service may be missing."""
    *before, name = handler.split("/")
    if service is None and len(before) == 1:
        service = before.pop()
    if before or "" in (service, name) or (service is None and not alone):
        raise typer.BadParameter(
            f"{excerpt(handler)}: give SERVICE/HANDLER, or HANDLER and --service", param_hint="--handler"
        )
    return service, name


def show(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="An awakeable (prom_1…) or an invocation (inv_1…).")
    ],
    journal: Annotated[
        bool,
        typer.Option("--journal", help="Print the whole journal of an invocation, to store and replay it."),
    ] = False,
    url: Url = None,
    config: Config = None,
) -> None:
    """Show everything about one awakeable or invocation, as JSON."""
    noun = next((noun for start, noun in _NOUNS.items() if id_.startswith(start)), None)
    if noun is None:
        exit_with_error(f"{excerpt(id_)} is neither an awakeable's ID (prom_1…) nor an invocation's (inv_1…)")
    client = ServiceClient(config, url)
    if journal:
        if noun is not Resource.invocations:
            raise typer.BadParameter("only invocations have a journal", param_hint="--journal")
        print_exactly(client.get(noun.value, id_, "journal").or_exit().text)
        return
    shown = client.get(noun.value, id_).or_exit()
    print_json(shown.text)
    dead = shown.document.get("dead_task")
    if dead is not None and shown.document["state"] == "pending":
        print_note(
            f"its task is a dead letter of worker {dead['worker']!r} ({dead['code']}: {dead['reason']})"
        )
        print_note(f"fix the worker, then run `awakeables dead-letters resend {dead['id']}`")
