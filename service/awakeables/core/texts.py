"""Makes text from outside safe to store, to show on one line and to print on a terminal."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any

MAX_CHARACTERS = 200
MAX_MESSAGE_CHARACTERS = 2000
"""Enough of an error for a person; a message may contain megabytes of a user's data."""

MAX_STACK_CHARACTERS = 20_000
"""Maximum characters of a stack: about 200 frames. Chained errors and notes can be of any length."""


def writable(text: str) -> str:
    """The text without lone surrogates, which UTF-8 can't encode (file names may have them)."""
    return str.encode(text, "utf-8", "replace").decode()


def shortened(text: str, most: int = MAX_CHARACTERS) -> str:
    """The text, or its beginning and `…` if it is longer than `most`."""
    return text if len(text) <= most else text[: most - 1] + "…"


MAX_VALUE_CHARACTERS = 80
"""Enough to recognize what a client sent or a caller passed."""


def excerpt(value: object) -> str:
    """A value's `repr` for a message, cut if it is long; a string is cut first, so that it stays quoted."""
    if isinstance(value, str):
        return repr(shortened(value, MAX_VALUE_CHARACTERS))
    return shortened(repr(value), MAX_VALUE_CHARACTERS)


_UNSEEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""What a terminal obeys instead of showing: control characters (C0 except tab and line feed, DEL, C1),
marks that change the direction of text, other line separators, lone surrogates."""

_NOT_IN_LINES = re.compile(f"[{_UNSEEN}]")
_NOT_IN_A_LINE = re.compile(f"[\t\n{_UNSEEN}]")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


def visible(text: str) -> str:
    """The text on one line; control characters, line feeds included, are escaped as in JSON."""
    return _NOT_IN_A_LINE.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """Text of several lines, or JSON: escaped as by `visible`, except for line feeds and tabs."""
    return _NOT_IN_LINES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}"


def bounded(text: str, most: int = MAX_MESSAGE_CHARACTERS) -> str:
    """The text, or its first `most` characters and how many were left out.

    Text that is only slightly longer is left alone: it may be a message that was cut before.
    """
    length = len(text)
    return text if length <= most * 1.2 else f"{text[:most]}… ({length - most:,} more characters)"


def message_of(said: object, read: Callable[[Any], str] = str) -> str:
    """An error's message, bounded and without control characters, even if its `__str__` raises."""
    try:
        text = read(said)
    except BaseException as problem:  # `__str__` is the code of the error's author
        return f"(its message can't be read: its __str__ raised {type(problem).__name__:.100})"
    # A subclass of str may override anything: take its characters only.
    kept = bounded(str.__str__(text))
    return visible_lines(writable(kept))


def type_of(error: BaseException) -> str:
    """The name of an error's class."""
    # Read past a metaclass, which may answer for the class.
    return writable(f"{type.__getattribute__(type(error), '__name__'):.200}")


def described(error: BaseException) -> str:
    """An error in one line, as `Type: message`."""
    message = message_of(error)
    return f"{type_of(error)}: {message}" if message else type_of(error)


def loggable(error: BaseException) -> BaseException:
    """The error, or a `RuntimeError` in its place if formatting it with its stack trace raises.

    Formatting reads the error's `__notes__`: a class whose `__getattr__` looks unknown attributes up,
    often in the JSON of a response, may raise a `KeyError`.
    """
    try:
        # What logging and Python do, causes included; without stack frames it reads no files.
        shown = traceback.TracebackException(error.__class__, error, error.__traceback__, limit=0)
        "".join(shown.format())
        _ = error.__class__.__name__
    except BaseException as problem:
        says = (
            f"{described(error)} (it can't be shown with its stack: it raised {type_of(problem)} when asked)"
        )
        return RuntimeError(says).with_traceback(problem.__traceback__)
    return error


def stack_of(error: BaseException) -> str:
    """An exception with its stack and causes; each message is on one line."""
    formatted = traceback.TracebackException.from_exception(error)
    left = [formatted]
    while left:
        one = left.pop()
        # `_str` is private, but the standard library keeps the text of an exception nowhere else.
        for text in ("_str", "msg", "filename"):
            if isinstance(getattr(one, text, None), str):
                setattr(one, text, visible(getattr(one, text)))
        if isinstance(one.__notes__, Sequence):  # nothing keeps a handler from setting it to anything else
            one.__notes__ = [_visible_note(note) for note in one.__notes__]
        left += [other for other in (one.__cause__, one.__context__, *(one.exceptions or ())) if other]
    return bounded_stack(visible_lines("".join(formatted.format())))


def _visible_note(note: object) -> str:
    try:
        return visible(str(note))
    except BaseException:  # `__str__` is the code of the error's author
        return message_of(note)


def bounded_stack(stack: str) -> str:
    """Limit a stack's length and that of its lines: messages may come from outside."""
    text = "\n".join(bounded(line) for line in stack.rstrip("\n").split("\n"))
    if len(text) <= MAX_STACK_CHARACTERS:
        return text
    half = MAX_STACK_CHARACTERS // 2
    return f"{text[:half]}\n  … {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"
