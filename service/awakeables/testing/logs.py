"""The service's log during a test: handed to `logging`, which pytest shows where the test fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog

from awakeables.telemetry import events

log = logging.getLogger("awakeables.testing")

_EVENTS = frozenset(value for name, value in vars(events).items() if name.isupper())
_in_a_run: ContextVar[bool] = ContextVar("awakeables_in_a_run", default=False)


@contextmanager
def redirected() -> Iterator[None]:
    """Send what the service itself logs to `logging`; `ctx.log` and all else go where they always go.

    As `structlog.testing.capture_logs` does it: the list of processors is changed in place, so
    that loggers that are bound already are reached, too.
    """
    processors = structlog.get_config()["processors"]
    if not isinstance(processors, list):  # a configuration of the user's that can't be changed in place
        yield
        return
    token = _in_a_run.set(True)
    processors.insert(0, _redirect)
    try:
        yield
    finally:
        processors.remove(_redirect)
        _in_a_run.reset(token)


def _redirect(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # An event of ctx.log may have any name; it has the trace of its invocation, ours have none.
    if not _in_a_run.get() or event.get("event") not in _EVENTS or "trace_id" in event:
        return event
    error = event.get("exc_info")
    # Without the stack: the error that the test gets has it, as its cause.
    facts = {name: value for name, value in event.items() if name not in ("event", "exc_info", "todo")}
    if isinstance(error, BaseException):
        facts["error"] = type(error).__name__
    told = ", ".join(f"{name}={value}" for name, value in facts.items())
    log.log(logging.getLevelNamesMapping().get(method.upper(), logging.INFO), "%s: %s", event["event"], told)
    raise structlog.DropEvent
