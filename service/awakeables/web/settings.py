"""How the HTTP interface behaves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from awakeables.core.bounds import MAX_JSON_VALUES


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """How requests are answered.

    Attributes:
        call_timeout: How long a call or an attach waits at most before it is answered 202.
        max_body_bytes: The largest body that is read.
        max_bodies_bytes: All bodies together that are held at a time, but for small ones.
        max_json_values: How many values JSON may have: see `core/bounds.py`.
        commit_timeout: How long a request waits for the store.
        retry_after: How long a client should wait before it asks again (Retry-After).
        exposed: Is the service reached from other machines?
        hosts: Host names that are accepted in addition to the loopback's; None: any.
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
    """What a client may take of the server.

    Attributes:
        request_timeout: How long a request may take to come in, head and body; what it sends
            earns it more.
        max_connections: Open at a time, idle ones too. The default leaves some of the 1,024
            files that a process may usually open to the store and Kafka.
        max_header_bytes: Path and headers of a request together.
        max_headers: Their number.
        max_target_bytes: Path and query.
    """

    request_timeout: timedelta = timedelta(seconds=30)
    max_connections: int = 900
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_target_bytes: int = 8 * 1024
