"""A text that a regular expression matches, to show as an example."""

from __future__ import annotations

import importlib
import re
import string
from collections.abc import Iterable
from typing import Any, Final

# The standard library has no public parser of its own expressions.
_parser: Any = importlib.import_module("re._parser")

CATEGORIES: Final = {
    "CATEGORY_DIGIT": "1",
    "CATEGORY_NOT_DIGIT": "a",
    "CATEGORY_WORD": "a",
    "CATEGORY_NOT_WORD": "-",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_SPACE": "a",
}
ANY: Final = "a" + string.digits + string.ascii_letters + string.punctuation + " "
LARGEST: Final = 10_000


def matching(pattern: str, *, least: int = 0, most: int | None = None) -> str | None:
    """A text of `least` to `most` characters that the pattern matches; None if none was found easily.

    Look-arounds are ignored, so each text is matched against the pattern before it is returned.
    """
    for repeats in (1, 0, least):
        try:
            text = _text(_parser.parse(pattern), {}, repeats)
            if re.search(pattern, text) and least <= len(text) <= (LARGEST if most is None else most):
                return text
        except (re.error, LookupError, RecursionError, OverflowError):
            return None
    return None


def _text(parts: Iterable[tuple[Any, Any]], groups: dict[int, str], repeats: int) -> str:
    return "".join(_part(str(kind), given, groups, repeats) for kind, given in parts)


def _part(kind: str, given: Any, groups: dict[int, str], repeats: int) -> str:
    match kind:
        case "LITERAL":
            return chr(given)
        case "NOT_LITERAL":
            return "b" if given == ord("a") else "a"
        case "ANY":
            return "a"
        case "IN":
            return _one_of([(str(item), value) for item, value in given])
        case "BRANCH":
            return _text(given[1][0], groups, repeats)
        case "SUBPATTERN":
            group, _, _, parts = given
            groups[group] = _text(parts, groups, repeats)
            return groups[group]
        case "ATOMIC_GROUP":
            return _text(given, groups, repeats)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            low, high, parts = given
            return "".join(
                _text(parts, groups, repeats) for _ in range(min(max(low, repeats), high, LARGEST))
            )
        case "GROUPREF":
            return groups[given]
        case _:  # where it is, not what
            return ""


def _one_of(items: list[tuple[str, Any]]) -> str:
    if items[0][0] == "NEGATE":
        return next(char for char in ANY if not any(_holds(item, char) for item in items[1:]))
    kind, given = items[0]
    if kind == "CATEGORY":
        return CATEGORIES[str(given)]
    return chr(given[0] if kind == "RANGE" else given)


def _holds(item: tuple[str, Any], char: str) -> bool:
    kind, given = item
    if kind == "RANGE":
        return bool(given[0] <= ord(char) <= given[1])
    if kind == "CATEGORY":
        return re.match(rf"\{_LETTERS[str(given)]}", char) is not None
    return bool(ord(char) == given)


_LETTERS: Final = dict(zip(CATEGORIES, "dDwWsS", strict=True))
