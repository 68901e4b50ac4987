"""Which invocation a line of the log is about, and what to do about it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import structlog

from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An invocation, by its ID and by whose code it runs."""

    invocation_id: str
    service: str
    handler: str

    def failed(self, error: BaseException, *, failures: int, retry_in_ms: int | None) -> None:
        """Tell of an attempt that failed, with its stack."""
        log.warning(
            events.ATTEMPT_FAILED,
            invocation_id=self.invocation_id,
            service=self.service,
            handler=self.handler,
            failures=failures,
            retry_in_ms=retry_in_ms,
            exc_info=error,
        )

    def run_failed(self, name: str, error: BaseException, *, failures: int, retry_in_ms: int | None) -> None:
        """Tell of an action that failed and is tried again by itself, or is given up."""
        log.warning(
            events.RUN_FAILED,
            invocation_id=self.invocation_id,
            service=self.service,
            handler=self.handler,
            run=name,
            failures=failures,
            retry_in_ms=retry_in_ms,
            exc_info=error,
        )

    def paused(self, reason: str, *, level: int = logging.WARNING) -> None:
        """Tell of a pause, and what ends it."""
        log.log(
            level,
            events.INVOCATION_PAUSED,
            invocation_id=self.invocation_id,
            service=self.service,
            handler=self.handler,
            reason=reason,
            todo=f"`awakeables show {self.invocation_id}`, then `awakeables resume` or `kill`",
        )
