"""How the HTTP interface behaves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Limits of one request.

    Attributes:
        call_timeout: How long a call or an attach waits at most before it is answered 202.
        max_body_bytes: The largest body that is read.
        commit_timeout: How long a request waits for the store.
        retry_after: What a client is told to wait before it asks again.
    """

    call_timeout: timedelta = timedelta(seconds=60)
    max_body_bytes: int = 32 * 1024 * 1024
    commit_timeout: timedelta = timedelta(seconds=10)
    retry_after: timedelta = timedelta(seconds=1)

    @property
    def retry_after_header(self) -> str:
        """Whole seconds, at least one, as HTTP writes them."""
        return str(max(1, -(-self.retry_after // timedelta(seconds=1))))
