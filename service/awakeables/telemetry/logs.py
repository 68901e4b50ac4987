"""Structured logs: to standard error, for people (console) or machines (JSON)."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logs(*, format_: str, level: str) -> None:
    """Set up the process's logs; libraries that use `logging` are heard from warnings on.

    Stacks are printed without the frames' variables, which may hold a password: structlog shows
    them otherwise, wherever rich is installed.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if format_ == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if format_ == "json":
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    # aiokafka logs every broken connection with a stack; our own events tell of the outage once.
    # And its debug lines hold the requests, a password that is sent by PLAIN among them.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
