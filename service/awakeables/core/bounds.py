"""How large text from outside becomes when it is parsed, known before it is parsed.

Parsed, `[]` takes 56 bytes and a pass of the garbage collector for the three that it was sent as: 32 MiB
of it were two gigabytes, and the process stood still for as long as it took to build them.
"""

from __future__ import annotations

import re
from typing import Final

MAX_JSON_VALUES: Final = 250_000
"""Parsed in about 0.1 s, during which no other request is served; as 12-digit numbers they have 3 MiB."""

MAX_UNPACKED_BYTES: Final = 16 * 1024 * 1024
"""What a batch of records may unpack to, and about what one look at a partition takes.

Producers gather less than 1 MiB in a batch, before they compress it, unless they are told otherwise.
"""

_BEGINS_A_VALUE: Final = (b",", b"[", b"{")
_all_but = bytes(set(range(256)) - set(b',[{"'))
_strings = re.compile(b'"[^"]*"')


def has_more_json_values(text: bytes, most: int) -> bool:
    """Has a JSON text more than `most` values? An empty array or object counts as two.

    Every value but the first follows a comma or an opening bracket. Those are counted, in about
    a millisecond per megabyte; only if there are too many, the ones inside strings are taken
    off, in at most ten. What is no JSON is answered too, in the same time.
    """
    if _values(text) <= most:
        return False
    # Without escapes every quote begins or ends a string.
    marks = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _all_but)
    if marks.count(b'"') > 4 * most:
        return True  # each string is a value or the name of a member
    return _values(_strings.sub(b"", marks.replace(b'""', b""))) > most


def _values(text: bytes) -> int:
    return 1 + sum(map(text.count, _BEGINS_A_VALUE))
