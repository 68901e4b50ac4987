"""Propagates traces: W3C Trace Context (`traceparent`, `tracestate`). No spans are recorded.

Every invocation has a trace: its caller's, or one derived from its seed. Records that it publishes carry
the trace, with a span ID derived from the event ID, so that a record has the same one each time it is sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from awakeables.core.records import Record

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

SAMPLED = "01"
"""The flags of a trace that begins here: sampled, so that a service that records traces may record it."""

_FORM = re.compile("(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACE_ID = re.compile("(?!0{32})[0-9a-f]{32}")


class Trace(Record):
    """The trace of an invocation and of everything that it causes.

    Attributes:
        trace_id: 32 hexadecimal digits.
        flags: Two more, as the caller gave them.
        state: The caller's `tracestate`.
    """

    trace_id: str
    flags: str = SAMPLED
    state: str | None = None

    def traceparent(self, name: str) -> str:
        """The `traceparent` for a span named by an event's or invocation's ID."""
        span_id = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        return f"00-{self.trace_id}-{span_id}-{self.flags}"


def trace_of(headers: Mapping[str, str], seed: str) -> Trace:
    """The trace of an invocation, from its caller's headers (names in lower case) or its seed."""
    given = headers.get(TRACEPARENT)
    parts = None if given is None else _parts(given)
    if parts is not None:
        trace_id, _, flags = parts
        return Trace(trace_id=trace_id, flags=flags, state=headers.get(TRACESTATE))
    if _TRACE_ID.fullmatch(seed):
        return Trace(trace_id=seed)
    return Trace(trace_id=hashlib.blake2b(seed.encode(), digest_size=16).hexdigest())


def known_traceparent(text: str | bytes | None) -> str | None:
    """The header's value if it is well-formed, else None."""
    if text is None:
        return None
    parts = _parts(text.decode("ascii", "replace") if isinstance(text, bytes) else text)
    return None if parts is None else "00-" + "-".join(parts)


def _parts(text: str) -> tuple[str, str, str] | None:
    """The trace ID, parent ID and flags; fields that a later version adds are ignored."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    return None if version == "00" and more else (trace_id, parent_id, flags)
