"""`schedules`: when each begins its handler next; pausing, resuming and triggering one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_line, print_table

group = typer.Typer(help="List schedules; pause, resume or trigger one.", no_args_is_help=True)

_TABLE = TableLayout(
    names=("schedule", "when", "handler", "next", "then", "last invocation", "state"),
    spare=("then", "handler", "when"),
    prose="state",
)

ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]


@group.command("list")
def list_(wide: Wide = False, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """List each schedule: its next three ticks, what it began last, and why it begins nothing."""
    reply = ServiceClient(config, url).get("schedules").or_exit()
    if json_:
        print_json(reply.text)
    else:
        rows = [_row(each) for each in reply.document["items"]]
        print_table(_TABLE, rows, none="the app has no schedules", wide=wide)


@group.command()
def pause(name: ScheduleName, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """Begin nothing for a schedule until it is resumed; its ticks until then are skipped."""
    reply = ServiceClient(config, url).post("schedules", name, "pause").or_exit()
    print_json(reply.text) if json_ else print_line(f"{name}: paused")


@group.command()
def resume(name: ScheduleName, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """Go on with a schedule at its next tick from now on."""
    reply = ServiceClient(config, url).post("schedules", name, "resume").or_exit()
    print_json(reply.text) if json_ else print_line(f"{name}: resumed; next {reply.document['next'][0]}")


@group.command()
def trigger(name: ScheduleName, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """Begin the handler of a schedule now; its next tick stays as it is."""
    reply = ServiceClient(config, url).post("schedules", name, "trigger").or_exit()
    began = reply.document["invocation_id"]
    if json_:
        print_json(reply.text)
    else:
        print_line(
            f"{name}: began {began}" if began else f"{name}: begins when its last invocation has ended"
        )


def _row(schedule: dict[str, Any]) -> dict[str, Any]:
    first, *then = schedule["next"]
    return {
        "schedule": schedule["name"],
        "when": _when(schedule),
        "handler": schedule["handler"],
        "next": None if schedule["paused"] else first,
        "then": None if schedule["paused"] else " ".join(then),
        "last invocation": schedule["last_invocation"],
        "state": _state(schedule),
    }


def _when(schedule: dict[str, Any]) -> str | None:
    if schedule["interval_seconds"] is not None:
        return f"every {schedule['interval_seconds']:g} s"
    return schedule["cron"] and f"{schedule['cron']} ({schedule['timezone']})"


def _state(schedule: dict[str, Any]) -> str:
    if not schedule["is_declared"]:
        return "the code of this instance does not declare it like this"
    if schedule["paused"] is not None:
        return f"paused since {schedule['paused']}"
    if schedule["is_blocked"]:
        return "blocked: its last invocation is paused"
    if schedule["queued"] is not None:
        return f"{schedule['queued']} waits for the last invocation, which is {schedule['last_status']}"
    return (
        "ok" if schedule["last_status"] in (None, "completed") else f"the last is {schedule['last_status']}"
    )
