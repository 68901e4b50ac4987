"""The audit log: one line per operation, with what was done to what, and with whose token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import structlog

from awakeables.errors import CallerError
from awakeables.telemetry import events
from awakeables.web.problems import Problem
from awakeables.web.request import HttpRequest

log = structlog.stdlib.get_logger(__name__)

Deed: TypeAlias = Literal[
    "resume", "cancel", "kill", "resolve", "reject", "resend", "skip", "purge", "pause", "edit", "restart",
    "seek", "trigger", "refresh",
]  # fmt: skip


@contextmanager
def audited(request: HttpRequest, act: Deed, **subject: object) -> Iterator[None]:
    """Log an operation that was done or whose outcome is unknown. A refused request is not logged."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, CallerError) or (isinstance(error, Problem) and error.status == 503):
            log.warning(events.OPERATOR_ACTED, act=act, by=request.by, outcome="in doubt", **subject)
        raise
    log.info(events.OPERATOR_ACTED, act=act, by=request.by, outcome="done", **subject)
