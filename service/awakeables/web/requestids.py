"""Request IDs: the caller's or a new one, on the response and on every log line of a request."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Final

from awakeables.ports import Entropy

REQUEST_ID: Final = b"x-request-id"
"""The header, on requests and responses."""

LONGEST: Final = 128
PREFIX_BYTES: Final = 8

_acceptable = re.compile(rb"[!-~]{1,%d}" % LONGEST).fullmatch


class RequestIds:
    """Makes IDs that are unique across processes: a random prefix per process, then a counter."""

    def __init__(self, entropy: Entropy) -> None:
        self._prefix = f"req_{entropy.bytes(PREFIX_BYTES).hex()}_"
        self._count = itertools.count(1)

    def new(self) -> str:
        return f"{self._prefix}{next(self._count):x}"

    def of(self, headers: Mapping[bytes, bytes]) -> str:
        """The request's own ID if it is 1 to 128 visible ASCII characters, else a new one."""
        value = headers.get(REQUEST_ID)
        if value is not None and _acceptable(value):
            return value.decode("ascii")
        return self.new()
