"""`pause`, `resume`, `restart`, `cancel`, `kill`, `purge`: invocations that need an operator."""

from __future__ import annotations

from typing import Annotated

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url
from awakeables.cli.terminal import exit_with_error, print_json, print_line
from awakeables.core.texts import excerpt

InvocationArgument = Annotated[str, typer.Argument(metavar="ID", help="The invocation, inv_1….")]


Subject = Annotated[
    str,
    typer.Argument(
        metavar="ID | SERVICE[/HANDLER]", help="An invocation, inv_1…; or a service, or one of its handlers."
    ),
]


def resume(subject: Subject, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """Run a paused or backing-off invocation now, or resume a service or handler.

    An invocation that was to be paused at its next wait goes on.
    A service is resumed with those of its handlers that were paused one by one.
    """
    if not subject.startswith("inv_"):
        reply = ServiceClient(config, url).post("pauses", *_target(subject), "resume").or_exit()
        if json_:
            print_json(reply.text)
            return
        for each in reply.document["resumed"]:
            print_line(f"{each}: resumed")
        if not reply.document["resumed"]:
            print_line(f"{subject}: was not paused")
        return
    invocation_id = subject
    row = ServiceClient(config, url).post("invocations", invocation_id, "resume").or_exit()
    print_json(row.text) if json_ else print_line(f"{invocation_id}: {row.document['status']}")


def pause(subject: Subject, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """Pause an invocation, or all of a service or handler, until it is resumed.

    An invocation that runs is paused at its next wait.
    Calls of a paused service or handler are accepted, and wait. What runs goes on
    until it is suspended. `awakeables pauses` lists what is paused.
    """
    if not subject.startswith("inv_"):
        reply = ServiceClient(config, url).post("pauses", *_target(subject), "pause").or_exit()
        print_json(reply.text) if json_ else print_line(f"{subject}: paused since {reply.document['since']}")
        return
    invocation_id = subject
    row = ServiceClient(config, url).post("invocations", invocation_id, "pause").or_exit()
    if json_:
        print_json(row.text)
        return
    status = row.document["status"]
    soon = {"running": "; it is paused at its next wait", "queued": "; it is paused when its turn comes"}
    print_line(f"{invocation_id}: {status}{soon.get(status, '')}")


def _target(subject: str) -> list[str]:
    """A service, and perhaps a handler."""
    parts = subject.split("/")
    if not all(parts) or len(parts) > 2:
        exit_with_error(
            f"{excerpt(subject)} is neither an invocation's ID (inv_1…) nor SERVICE or SERVICE/HANDLER; for "
            "a key of an object: awakeables objects pause OBJECT KEY"
        )
    return parts


def restart(
    invocation_id: InvocationArgument,
    from_: Annotated[
        int,
        typer.Option(
            "--from",
            metavar="ENTRY",
            min=0,
            help="The last entry of its journal to keep, as `show` numbers them; 0 keeps the input alone.",
        ),
    ] = 0,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Begin an ended or paused invocation again, under a new ID. A paused one is killed."""
    client = ServiceClient(config, url)
    begun = client.post("invocations", invocation_id, "restart", from_entry=from_).or_exit()
    print_json(begun.text) if json_ else print_line(f"{invocation_id}: now {begun.document['invocation_id']}")


def purge(
    invocation_id: InvocationArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Delete an invocation that has ended; with the run of a workflow, what belongs to its key."""
    if not yes:
        typer.confirm(f"Delete {invocation_id} with its journal and result?", abort=True, err=True)
    purged = ServiceClient(config, url).post("invocations", invocation_id, "purge").or_exit()
    print_json(purged.text) if json_ else print_line(f"{invocation_id}: deleted")


def cancel(
    invocation_id: InvocationArgument, url: Url = None, json_: AsJson = False, config: Config = None
) -> None:
    """Cancel an invocation: its handler gets `Cancelled` at its next await and can clean up."""
    row = ServiceClient(config, url).post("invocations", invocation_id, "cancel").or_exit()
    if json_:
        print_json(row.text)
        return
    found = row.document
    if found.get("ended"):
        told = found["ended"]
    elif found["cancelled"] == found["updated"]:
        told = f"{found['status']}; its handler gets `Cancelled` at its next await"
    else:
        told = (
            f"{found['status']}; it was cancelled at {found['cancelled']} already, and its handler is told "
            "once: at an await that is neither in `ctx.shield()` nor of an action that is being executed. "
            f"`awakeables kill {invocation_id}` ends it without its handler"
        )
    print_line(f"{invocation_id}: {told}")


def kill(
    invocation_id: InvocationArgument, url: Url = None, json_: AsJson = False, config: Config = None
) -> None:
    """End an invocation at once, without notice: its handler can't clean up. Try `cancel` first."""
    row = ServiceClient(config, url).post("invocations", invocation_id, "kill").or_exit()
    print_json(row.text) if json_ else print_line(f"{invocation_id}: killed")
