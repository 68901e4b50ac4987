"""What is printed, and where: answers to standard output, messages about them to standard error.

What others have written (a reason, a topic, a payload) reaches the terminal by this module alone, and
only as `visible` shows it: a terminal does what an escape sequence tells it to.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console

from awakeables.cli.tables import TableLayout
from awakeables.core.texts import visible, visible_lines

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


def tell(message: str = "") -> None:
    """One line about an answer."""
    err.print(visible(message), markup=False, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """One line of an answer."""
    out.print(visible(message), markup=False, highlight=False, soft_wrap=True)


def print_json(text: bytes) -> None:
    """Indent a JSON text; numbers stay as they are written (2**64, 0.1000)."""
    sys.stdout.write(visible_lines(msgspec.json.format(text, indent=2).decode()) + "\n")


def print_table(
    table: TableLayout, rows: Iterable[Mapping[str, Any]], *, none: str, wide: bool = False
) -> None:
    """The rows as a table, or the text `none` to standard error.

    Args:
        table: What is shown of them.
        rows: What to show.
        none: What to say when there is no row.
        wide: Every column, each row on one line, however wide the terminal is.
    """
    cells = [[_cell(row.get(name)) for name in table.names] for row in rows]
    if not cells:
        tell(none)
        return
    lines, left_out = table.lines(cells, None if wide else _width())
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if left_out:
        tell(f"left out: {', '.join(left_out)}; --wide or --json shows all")


def print_page(table: TableLayout, page: Mapping[str, Any], *, none: str, wide: bool) -> None:
    """A page of a list as a table, and how to see the next one."""
    print_table(table, page["items"], none=none, wide=wide)
    if page.get("next") is not None:
        tell(f"there are more: --before {page['next']}")


def _cell(value: object) -> str:
    return "" if value is None else visible(str(value))


def _width() -> int | None:
    """Of the terminal, or what COLUMNS says; a pipe gets whole lines."""
    return shutil.get_terminal_size(fallback=(0, 0)).columns or None
