"""Checks of a request's head before it is routed (a strict reading of RFC 9112).

The parser already rejects most of what two programs could read differently: two lengths, a length together
with chunks, folded lines, bare line feeds, odd header names. These are the remaining checks.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from awakeables.core.texts import excerpt
from awakeables.web.problems import Problem, bad_request

VERSIONS: Final = ("1.1", "1.0")

ONCE: Final = frozenset(
    (
        *(b"authorization", b"content-encoding", b"content-type", b"host", b"idempotency-key", b"origin"),
        b"transfer-encoding",
    )
)
"""Headers that may not be repeated: a proxy in front could act on one value and we on the other."""

_Headers = Sequence[tuple[bytes, bytes]]

_host = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([0-9a-z_.-]{1,253}))(?::[0-9]{0,5})?")
_absolute = re.compile(rb"https?://([^/?#]+)/", re.IGNORECASE)


def objection_to(version: str, target: bytes, headers: _Headers) -> Problem | None:
    """Return why a request's head is invalid, or None if it is valid.

    Args:
        version: The HTTP version, such as `1.1`.
        target: The request target as sent.
        headers: The headers as sent, with names in lower case.
    """
    if version not in VERSIONS:
        return Problem(
            505, "http-version", "The HTTP version is not supported", f"use HTTP/1.1, not {version}"
        )
    names = [name for name, _ in headers]
    if len(set(names)) != len(names):
        for name in ONCE:
            if names.count(name) > 1:
                return bad_request(f"the header {name.decode()} is repeated")
    given = dict(headers)
    host = given.get(b"host")
    if host is None and version == "1.1":
        return bad_request("the header host is missing")
    if host is not None and host_name(host.decode("latin-1")) is None:
        return bad_request(f"host: {excerpt(host.decode('latin-1'))} is not a host name")
    coding = given.get(b"transfer-encoding")
    if coding is not None and (version == "1.0" or coding.strip().lower() != b"chunked"):
        return Problem(
            501,
            "transfer-encoding",
            "The body's transfer encoding is not supported here",
            f"use chunked, with HTTP/1.1, not {excerpt(coding.decode('latin-1'))}",
        )
    return _objection_to_target(target, host)


def _objection_to_target(target: bytes, host: bytes | None) -> Problem | None:
    if b"#" in target:
        return bad_request("the request target has a fragment, which a client must not send")
    if target.startswith(b"/") or target == b"*":
        return None
    absolute = _absolute.match(target)
    if absolute is None:
        return bad_request("the request target is neither a path nor an absolute URL")
    if host is None or absolute[1].lower() != host.strip().lower():
        return bad_request("the request target and the header host name different hosts")
    return None


@lru_cache(maxsize=64)
def host_name(host: str) -> str | None:
    """The host name or address in a `Host` header, in lower case and without port; None if invalid."""
    match = _host.fullmatch(host.strip().lower())
    if match is None:
        return None
    address, name = match.groups()
    if address is None:
        return str(name).removesuffix(".") or None
    try:
        return str(ipaddress.IPv6Address(address))
    except ValueError:
        return None
