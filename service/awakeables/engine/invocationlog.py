"""The log lines about one invocation."""

from __future__ import annotations

import logging

import structlog

from awakeables.core.commands import NewCall
from awakeables.core.invocations import End
from awakeables.core.outcomes import Cancellation, Outcome, Rejection
from awakeables.core.records import Record
from awakeables.core.texts import shortened
from awakeables.telemetry import events
from awakeables.telemetry.metrics import end_of

log = structlog.stdlib.get_logger(__name__)


class InvocationLog(Record):
    """Logs the events of one invocation, with its ID, service and handler."""

    invocation_id: str
    service: str
    handler: str

    def began(self, *, level: int) -> None:
        """Log that the invocation has been created."""
        log.log(
            level,
            events.INVOCATION_BEGAN,
            invocation_id=self.invocation_id,
            service=self.service,
            handler=self.handler,
        )

    def ended(self, result: Outcome, *, duration_ms: int, level: int) -> None:
        """Log the outcome and the duration of the invocation; a failure is always logged as a warning."""
        facts: dict[str, object] = {}
        if isinstance(result, Rejection | Cancellation):
            facts["reason"] = shortened(result.reason)
        if isinstance(result, Rejection):
            level, facts["code"] = logging.WARNING, result.code
        log.log(
            level,
            events.INVOCATION_ENDED,
            invocation_id=self.invocation_id,
            service=self.service,
            handler=self.handler,
            outcome=end_of(End(result=result)),
            duration_ms=duration_ms,
            **facts,
        )

    def failed(
        self, error: BaseException | None, traceback: str, *, failures: int, retry_in_ms: int | None
    ) -> None:
        """Log that an attempt failed, with the stack of its error.

        Args:
            error: The error, if the handler runs in this process.
            traceback: Its stack as text, which is logged if there is no error.
            failures: How many attempts have failed in a row.
            retry_in_ms: When it is tried again; None: never.
        """
        stack: dict[str, object] = {"exception": traceback} if error is None else {"exc_info": error}
        log.warning(
            events.ATTEMPT_FAILED,
            invocation_id=self.invocation_id,
            service=self.service,
            handler=self.handler,
            failures=failures,
            retry_in_ms=retry_in_ms,
            **stack,
        )

    def send_conflict(self, call: NewCall) -> None:
        """Log that the invocation has sent something whose idempotency key was used with another input."""
        log.warning(
            events.SEND_CONFLICT,
            invocation_id=self.invocation_id,
            service=self.service,
            handler=self.handler,
            callee=f"{call.service}/{call.handler}",
            key=call.key,
            idempotency_key=None if call.idempotency is None else call.idempotency.key,
        )

    def paused(self, reason: str, *, level: int = logging.WARNING) -> None:
        """Log a pause, and how to end it."""
        log.log(
            level,
            events.INVOCATION_PAUSED,
            invocation_id=self.invocation_id,
            service=self.service,
            handler=self.handler,
            reason=reason,
            todo=f"`awakeables show {self.invocation_id}`, then `awakeables resume` or `kill`",
        )
