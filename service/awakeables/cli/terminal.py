"""Printing: results to standard output, messages about them to standard error.

Text from outside (a reason, a topic, a payload) reaches the terminal only through this module, with
control characters escaped by `visible`: a terminal would execute an escape sequence in it.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console

from awakeables.cli.tables import TableLayout
from awakeables.core.texts import visible, visible_lines

stdout = Console(emoji=False)
stderr = Console(stderr=True, emoji=False)


def exit_with_error(message: str) -> NoReturn:
    """Print one line to standard error and exit with 1."""
    print_error(message)
    raise typer.Exit(1)


def print_error(message: str) -> None:
    """Print an error in one line; square brackets in it are not markup."""
    stderr.print("[red]error:[/red]", end=" ")
    print_note(message)


def print_note(message: str = "") -> None:
    """Print a line to standard error: a hint or a message about the result."""
    stderr.print(visible(message), markup=False, highlight=False, soft_wrap=True)


def print_line(message: str) -> None:
    """Print a line of the result to standard output."""
    stdout.print(visible(message), markup=False, highlight=False, soft_wrap=True)


def print_json(text: bytes) -> None:
    """Print JSON, indented; numbers keep their notation (2**64, 0.1000)."""
    sys.stdout.write(visible_lines(msgspec.json.format(text, indent=2).decode()) + "\n")


def print_exactly(text: bytes) -> None:
    """Print JSON unchanged if it goes to a file, where the white space inside its values may matter."""
    if sys.stdout.isatty():
        print_json(text)
    else:
        sys.stdout.write(text.decode() + "\n")


def print_table(
    table: TableLayout, rows: Iterable[Mapping[str, Any]], *, none: str, wide: bool = False
) -> None:
    """Print rows as a table, or `none` to standard error if there are no rows.

    Args:
        table: The columns.
        rows: One mapping per row.
        none: The message for an empty table.
        wide: Print all columns and one line per row, whatever the terminal's width.
    """
    cells = [[_cell(row.get(name)) for name in table.names] for row in rows]
    if not cells:
        print_note(none)
        return
    lines, dropped = table.lines(cells, None if wide else _width())
    for line in lines:
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)
    if dropped:
        print_note(f"columns left out: {', '.join(dropped)}; --wide or --json shows all")


def print_page(
    table: TableLayout, page: Mapping[str, Any], *, none: str, wide: bool, cursor: str = "--before"
) -> None:
    """Print one page of a list as a table, and with which option to get the next page."""
    print_table(table, page["items"], none=none, wide=wide)
    if page.get("next") is not None:
        print_note(f"more: {cursor} {shlex.quote(page['next'])}")


def _cell(value: object) -> str:
    return "" if value is None else visible(str(value))


def _width() -> int | None:
    """Return the terminal's width, or COLUMNS; None for a pipe, which gets whole lines."""
    return shutil.get_terminal_size(fallback=(0, 0)).columns or None
