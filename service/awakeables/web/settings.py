"""Settings of the HTTP interface."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from awakeables.core.bounds import MAX_JSON_VALUES


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """How requests are answered.

    Attributes:
        call_timeout: Maximum wait of a call or attach before it is answered 202.
        max_body_bytes: Maximum size of a request body.
        max_bodies_bytes: Maximum total size of bodies in memory, not counting small ones.
        max_json_values: Maximum number of values in a JSON body; see `core/bounds.py`.
        commit_timeout: How long a request waits for the store.
        retry_after: How long a client should wait before it polls again (Retry-After).
        exposed: Whether other machines can reach the service.
        hosts: Host names that are accepted in addition to loopback names; None accepts any.
    """

    call_timeout: timedelta = timedelta(seconds=60)
    max_body_bytes: int = 32 * 1024 * 1024
    max_bodies_bytes: int = 256 * 1024 * 1024
    max_json_values: int = MAX_JSON_VALUES
    commit_timeout: timedelta = timedelta(seconds=10)
    retry_after: timedelta = timedelta(seconds=1)
    exposed: bool = False
    hosts: frozenset[str] | None = frozenset()

    @property
    def retry_after_header(self) -> bytes:
        """Whole seconds, at least one, as HTTP writes them."""
        return b"%d" % max(1, -(-self.retry_after // timedelta(seconds=1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of client connections.

    Attributes:
        request_timeout: How long a request may take to arrive, head and body; extended while data
            keeps arriving.
        max_connections: Open connections, including idle ones. Of the 1,024 file descriptors that a
            process usually has, the default leaves some for the store and Kafka.
        max_header_bytes: Total size of a request's path and headers.
        max_headers: Number of headers.
        max_target_bytes: Size of path and query.
    """

    request_timeout: timedelta = timedelta(seconds=30)
    max_connections: int = 900
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_target_bytes: int = 8 * 1024
