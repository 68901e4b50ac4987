"""`/metrics` of a process that serves no HTTP otherwise: a worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from awakeables.errors import OperatorError

LOOPBACK = "127.0.0.1"
"""It asks for no token, so only this machine gets it."""


@contextmanager
def served(registry: CollectorRegistry, port: int) -> Iterator[int]:
    """Serve a registry, in a thread of its own, as long as the block lasts; yields the port.

    Args:
        registry: What is served.
        port: 0 takes any that is free.

    Raises:
        OperatorError: The port can't be had.
    """
    try:
        server, thread = start_http_server(port, LOOPBACK, registry)
    except OSError as error:
        raise OperatorError(
            f"can't serve metrics on port {port} of {LOOPBACK}: {error.strerror or error}; "
            "choose another with AWAKEABLES_METRICS_PORT"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
