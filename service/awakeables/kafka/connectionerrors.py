"""Logs why a client can't be connected: once for each kind of reason, and once when it is connected."""

from __future__ import annotations

import structlog

from awakeables.errors import BrokerRefused
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.diagnosis import diagnose
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)


class ConnectionErrorLog:
    """Logs the failures of a worker's client while it reconnects."""

    def __init__(self, connection: KafkaConnection, *, client: str) -> None:
        self._connection = connection
        self._client = client
        self._logged: str | None = None

    async def explain(self, error: Exception) -> None:
        """Find out why the client failed, and log it unless the last reason was of the same kind."""
        problem = await diagnose(self._connection, error)
        event = events.BROKER_REFUSED if isinstance(problem, BrokerRefused) else events.BROKER_DOWN
        if event != self._logged:
            self._logged = event
            log.error(event, client=self._client, error=str(problem))

    def recovered(self) -> None:
        """Log that the client is connected, if it was not."""
        if self._logged is not None:
            self._logged = None
            log.info(events.BROKER_BACK, client=self._client)
