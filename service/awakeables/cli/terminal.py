"""What is printed, and where: answers to standard output, words about them to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 1000
"""Wider than any row: a table takes no more than it needs."""

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


def fail(message: str) -> NoReturn:
    """Tell of an error in one line, and exit with 1."""
    tell_error(message)
    raise typer.Exit(1)


def tell_error(message: str) -> None:
    """One line about what went wrong; a `[table]` that it names is no markup."""
    err.print("[red]error:[/red]", end=" ")
    tell(message)


def tell(message: str) -> None:
    """One line about an answer, as it is."""
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """One line of an answer, as it is."""
    out.print(message, markup=False, highlight=False, soft_wrap=True)


def print_json(text: bytes) -> None:
    """Indent a JSON text; numbers stay as they are written (2**64, 0.1000)."""
    sys.stdout.write(msgspec.json.format(text, indent=2).decode() + "\n")


def print_table(
    columns: Sequence[str] | Mapping[str, str], rows: Iterable[Mapping[str, Any]], *, none: str
) -> None:
    """One line per row, or the words `none` to standard error.

    Args:
        columns: The members to show, and their titles where those differ. The last one may wrap.
        rows: What to show.
        none: What to say when there is no row.
    """
    titles = columns if isinstance(columns, Mapping) else {name: name for name in columns}
    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(titles.values(), start=1):
        table.add_column(title, no_wrap=place < len(titles), overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if row.get(name) is None else str(row[name])) for name in titles))
    if table.row_count:
        # A pipe gets whole lines, whatever the width of the terminal is.
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)
    else:
        tell(none)
