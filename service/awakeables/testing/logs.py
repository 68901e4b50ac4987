"""The service's log during a test, passed to `logging`, which pytest shows if the test fails."""

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
    """Redirect the service's own log lines to `logging`; `ctx.log` and all other loggers are unchanged.

    The list of processors is changed in place, as in `structlog.testing.capture_logs`, so that this also
    reaches loggers that are already bound.
    """
    processors = structlog.get_config()["processors"]
    if not isinstance(processors, list):  # a user's configuration that can't be changed in place
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
    # An event of ctx.log can have any name, but it has the trace ID of its invocation; ours have none.
    if not _in_a_run.get() or event.get("event") not in _EVENTS or "trace_id" in event:
        return event
    error = event.get("exc_info")
    # Without the stack, which the error raised in the test has as its cause.
    facts = {name: value for name, value in event.items() if name not in ("event", "exc_info", "todo")}
    if isinstance(error, BaseException):
        facts["error"] = type(error).__name__
    text = ", ".join(f"{name}={value}" for name, value in facts.items())
    log.log(logging.getLevelNamesMapping().get(method.upper(), logging.INFO), "%s: %s", event["event"], text)
    raise structlog.DropEvent
