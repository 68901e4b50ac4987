"""What others have written, made fit to be kept, told in one line, and shown on a terminal."""

from __future__ import annotations

import re

MOST_CHARACTERS = 200


def writable(text: str) -> str:
    """The text without lone surrogates, which UTF-8 can't say (file names have them)."""
    return text.encode("utf-8", "replace").decode()


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text, or its beginning and `…` if it is a long one."""
    return text if len(text) <= most else text[: most - 1] + "…"


_UNSEEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters (C0 but for tab and line feed, DEL, C1), what turns the direction of writing
around, other separators of lines, lone surrogates: what a terminal obeys instead of showing it."""

_NOT_IN_LINES = re.compile(f"[{_UNSEEN}]")
_NOT_IN_A_LINE = re.compile(f"[\t\n{_UNSEEN}]")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


def visible(text: str) -> str:
    """The text on one line; what a terminal would obey, a line feed too, is written as in JSON."""
    return _NOT_IN_A_LINE.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """A text of several lines, or a JSON text, with all but its line feeds and tabs as in `visible`."""
    return _NOT_IN_LINES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}"
