"""All commands, grouped by what a user wants to do, and the console script."""

from __future__ import annotations

from typing import Annotated

import typer

from awakeables import __version__
from awakeables.cli import (
    awakeables,
    backup,
    check,
    deadletters,
    doctor,
    functions,
    inspection,
    instances,
    invocations,
    objects,
    offsets,
    outbox,
    pauses,
    rekey,
    replay,
    schedules,
    service,
    settings,
    subscriptions,
    topics,
    verify,
    versions,
    why,
)
from awakeables.cli.options import Config
from awakeables.cli.terminal import print_error, stdout
from awakeables.errors import AwakeablesError

RUN, COMPLETE, INSPECT = "Run", "Complete awakeables", "Inspect"
RECOVER, MAINTAIN = "Recover", "Check and maintain"
"""The panels of `--help`."""

cli = typer.Typer(
    name="awakeables",
    help="Durable callbacks over Kafka: hand out work, wait for months if need be, resume exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    config: Config = None,
) -> None:
    if version:
        stdout.print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(2)


cli.command(rich_help_panel=RUN)(service.dev)
cli.command(rich_help_panel=RUN)(service.serve)
cli.command(rich_help_panel=RUN)(service.worker)
cli.command(rich_help_panel=COMPLETE)(awakeables.resolve)
cli.command(rich_help_panel=COMPLETE)(awakeables.reject)
cli.command("list", rich_help_panel=INSPECT)(inspection.list_)
cli.command(rich_help_panel=INSPECT)(inspection.show)
cli.command(rich_help_panel=INSPECT)(why.why)
cli.command(rich_help_panel=INSPECT)(instances.instances)
cli.command(rich_help_panel=INSPECT)(versions.versions)
cli.command(rich_help_panel=RECOVER)(invocations.pause)
cli.command(rich_help_panel=RECOVER)(invocations.resume)
cli.command(rich_help_panel=RECOVER)(invocations.restart)
cli.command(rich_help_panel=RECOVER)(invocations.cancel)
cli.command(rich_help_panel=RECOVER)(invocations.kill)
cli.command(rich_help_panel=RECOVER)(invocations.purge)
cli.command(rich_help_panel=RECOVER)(pauses.pauses)
cli.add_typer(objects.group, name="objects", rich_help_panel=RECOVER)
cli.add_typer(deadletters.group, name="dead-letters", rich_help_panel=RECOVER)
cli.add_typer(outbox.group, name="outbox", rich_help_panel=RECOVER)
cli.add_typer(offsets.group, name="offsets", rich_help_panel=RECOVER)
cli.add_typer(subscriptions.group, name="subscriptions", rich_help_panel=RECOVER)
cli.add_typer(schedules.group, name="schedules", rich_help_panel=RECOVER)
cli.add_typer(functions.group, name="functions", rich_help_panel=RECOVER)
cli.command(rich_help_panel=MAINTAIN)(backup.backup)
cli.command(rich_help_panel=MAINTAIN)(check.check)
cli.command(rich_help_panel=MAINTAIN)(doctor.doctor)
cli.command(rich_help_panel=MAINTAIN)(verify.verify)
cli.command(rich_help_panel=MAINTAIN)(replay.replay)
cli.command(rich_help_panel=MAINTAIN)(rekey.rekey)
cli.add_typer(topics.group, name="topics", rich_help_panel=MAINTAIN)
cli.command(rich_help_panel=MAINTAIN)(settings.settings)


def main() -> None:
    """The console script. Prints our own errors in one line, without a traceback."""
    try:
        cli()
    except AwakeablesError as error:
        print_error(str(error))
        raise SystemExit(1) from None
