"""Estimates how much memory JSON takes when it is parsed, before it is parsed.

`[],` is three bytes in a request and 56 bytes as an object, tracked by the garbage collector: 32 MiB of it
became two gigabytes, and the process was blocked while they were built.
"""

from __future__ import annotations

import re
from typing import Final

MAX_JSON_VALUES: Final = 250_000
"""Takes about 0.1 s to parse, during which no other request is served; 3 MiB as 12-digit numbers."""

MAX_UNPACKED_BYTES: Final = 16 * 1024 * 1024
"""Maximum uncompressed size of a record batch, and roughly what one poll of a partition takes.

By default producers collect less than 1 MiB in a batch, before compression.
"""

_BEGINS_A_VALUE: Final = (b",", b"[", b"{")
_all_but = bytes(set(range(256)) - set(b',[{"'))
_strings = re.compile(b'"[^"]*"')


def has_more_json_values(text: bytes, most: int) -> bool:
    """Whether a JSON text has more than `most` values. An empty array or object counts as two.

    Every value but the first follows a comma or an opening bracket. Counting these takes about a
    millisecond per megabyte. Only if there are too many are those inside strings subtracted, which
    takes up to ten. Text that is not JSON gets an answer in the same time.
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
