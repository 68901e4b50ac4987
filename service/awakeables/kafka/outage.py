"""A client that is of no use: said once for each kind of reason, and once when it is over."""

from __future__ import annotations

import structlog

from awakeables.errors import BrokerRefused
from awakeables.kafka.connection import Connection
from awakeables.kafka.diagnosis import diagnose
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)


class Outage:
    """What is said while one client of a worker is tried again and again."""

    def __init__(self, connection: Connection, *, client: str) -> None:
        self._connection = connection
        self._client = client
        self._told: str | None = None

    async def explain(self, error: Exception) -> None:
        """Find out why the client failed, and log that unless it was said before."""
        problem = await diagnose(self._connection, error)
        event = events.BROKER_REFUSED if isinstance(problem, BrokerRefused) else events.BROKER_DOWN
        if event != self._told:
            self._told = event
            log.error(event, client=self._client, error=str(problem))

    def end(self) -> None:
        """It is over; logged if there was one."""
        if self._told is not None:
            self._told = None
            log.info(events.BROKER_BACK, client=self._client)
