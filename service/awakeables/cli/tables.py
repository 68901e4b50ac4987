"""Tables for people: as many columns as there is room for, and every ID whole."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size

GAP = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLayout:
    """What is shown of each row.

    Attributes:
        names: The members, in order.
        titles: Of members whose title is another word.
        spare: What is left out where there is no room, the first of them first; no other member is.
        prose: The member that is a sentence. It stands last; where it has no room, it stands below
            its row.
    """

    names: tuple[str, ...]
    titles: dict[str, str] = field(default_factory=dict)
    spare: tuple[str, ...] = ()
    prose: str = ""

    def lines(self, rows: Sequence[Sequence[str]], width: int | None) -> tuple[list[str], list[str]]:
        """The lines of the table, and the titles of what is left out and not empty.

        Args:
            rows: The cells of each row, in the order of the names; there is at least one.
            width: How many columns a line may have; None: as many as it wants.
        """
        titles = [self.titles.get(name, name) for name in self.names]
        cells = dict(zip(self.names, zip(titles, *rows, strict=True), strict=True))
        widths = {name: max(map(cell_len, column)) for name, column in cells.items()}
        fixed = [name for name in self.names if name != self.prose]
        left_out = []
        # Empty columns are dropped first: nothing is lost.
        for name in sorted(self.spare, key=lambda name: any(cells[name][1:])):
            if width is not None and _length(fixed, widths) > width:
                fixed.remove(name)
                if any(cells[name][1:]):
                    left_out.append(self.titles.get(name, name))
        below = bool(self.prose) and width is not None and _length([*fixed, self.prose], widths) > width
        shown = fixed if below or not self.prose else [*fixed, self.prose]
        lines = []
        for place in range(len(rows) + 1):
            padded = (set_cell_size(cells[name][place], widths[name]) for name in shown)
            lines.append(GAP.join(padded).rstrip())
            if below and place and width is not None:
                lines += _wrapped(cells[self.prose][place], width)
        return lines, left_out


def _length(names: Sequence[str], widths: dict[str, int]) -> int:
    return sum(widths[name] for name in names) + len(GAP) * (len(names) - 1)


def _wrapped(text: str, width: int) -> list[str]:
    """Between words, so that an ID or an address in it stays whole."""
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=GAP,
        subsequent_indent=GAP,
        break_long_words=False,
        break_on_hyphens=False,
    )
