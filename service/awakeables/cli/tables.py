"""Tables for people: as many columns as fit, and no ID is ever cut."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size

GAP = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLayout:
    """The columns of a table.

    Attributes:
        names: The members to show, in order.
        titles: Titles that differ from the member's name.
        spare: Columns to drop if the table is too wide, in this order. No others are dropped.
        prose: The column that holds a sentence. It comes last, or on lines below its row if it
            doesn't fit.
    """

    names: tuple[str, ...]
    titles: dict[str, str] = field(default_factory=dict)
    spare: tuple[str, ...] = ()
    prose: str = ""

    def lines(self, rows: Sequence[Sequence[str]], width: int | None) -> tuple[list[str], list[str]]:
        """Return the table's lines, and the titles of the columns dropped that were not empty.

        Args:
            rows: At least one row of cells, in the order of `names`.
            width: Characters per line; None for unlimited.
        """
        titles = [self.titles.get(name, name) for name in self.names]
        cells = dict(zip(self.names, zip(titles, *rows, strict=True), strict=True))
        widths = {name: max(map(cell_len, column)) for name, column in cells.items()}
        fixed = [name for name in self.names if name != self.prose]
        dropped = []
        # Empty columns go first: nothing is lost.
        for name in sorted(self.spare, key=lambda name: any(cells[name][1:])):
            if width is not None and _length(fixed, widths) > width:
                fixed.remove(name)
                if any(cells[name][1:]):
                    dropped.append(self.titles.get(name, name))
        below = bool(self.prose) and width is not None and _length([*fixed, self.prose], widths) > width
        shown = fixed if below or not self.prose else [*fixed, self.prose]
        lines = []
        for place in range(len(rows) + 1):
            padded = (set_cell_size(cells[name][place], widths[name]) for name in shown)
            lines.append(GAP.join(padded).rstrip())
            if below and place and width is not None:
                lines += _wrap(cells[self.prose][place], width)
        return lines, dropped


def _length(names: Sequence[str], widths: dict[str, int]) -> int:
    return sum(widths[name] for name in names) + len(GAP) * (len(names) - 1)


def _wrap(text: str, width: int) -> list[str]:
    """Wrap between words only, so that an ID or an address stays whole."""
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=GAP,
        subsequent_indent=GAP,
        break_long_words=False,
        break_on_hyphens=False,
    )
