"""All commands, grouped as a user looks for them, and the console script."""

from __future__ import annotations

from typing import Annotated

import typer

from awakeables import __version__
from awakeables.cli import (
    answering,
    backing,
    checking,
    deadletters,
    looking,
    mending,
    offsets,
    outbox,
    running,
    topics,
)
from awakeables.cli.options import Config
from awakeables.cli.terminal import out, tell_error
from awakeables.errors import AwakeablesError

RUN, ANSWER, LOOK = "Run", "Answer callbacks", "Look"
MEND, CHECK = "Mend", "Check and keep"
"""The panels of `--help`."""

cli = typer.Typer(
    name="awakeables",
    help="Durable callbacks over Kafka: hand out work, wait for months, go on exactly once.",
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
        out.print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(2)


cli.command(rich_help_panel=RUN)(running.dev)
cli.command(rich_help_panel=RUN)(running.serve)
cli.command(rich_help_panel=RUN)(running.worker)
cli.command(rich_help_panel=ANSWER)(answering.resolve)
cli.command(rich_help_panel=ANSWER)(answering.reject)
cli.command("list", rich_help_panel=LOOK)(looking.list_)
cli.command(rich_help_panel=LOOK)(looking.show)
cli.command(rich_help_panel=MEND)(mending.resume)
cli.command(rich_help_panel=MEND)(mending.cancel)
cli.command(rich_help_panel=MEND)(mending.kill)
cli.add_typer(deadletters.group, name="dead-letters", rich_help_panel=MEND)
cli.add_typer(outbox.group, name="outbox", rich_help_panel=MEND)
cli.add_typer(offsets.group, name="offsets", rich_help_panel=MEND)
cli.command(rich_help_panel=CHECK)(backing.backup)
cli.command(rich_help_panel=CHECK)(checking.doctor)
cli.add_typer(topics.group, name="topics", rich_help_panel=CHECK)
cli.command(rich_help_panel=CHECK)(checking.settings)


def main() -> None:
    """The console script: our own errors are told in one line, without a stack."""
    try:
        cli()
    except AwakeablesError as error:
        tell_error(str(error))
        raise SystemExit(1) from None
