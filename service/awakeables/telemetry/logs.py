"""Structured logs to standard error, for people (console) or machines (JSON).

Text from outside (an exception, a reason) can't forge a line or control a terminal: JSON escapes control
characters by itself, and the console shows them escaped as in JSON (`core.texts.visible`).
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO, TypeAlias

import structlog

from awakeables.core.texts import bounded_stack, stack_of, visible, visible_lines
from awakeables.telemetry import events

_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

log = structlog.stdlib.get_logger(__name__)


def configure_logs(*, format_: str, level: str) -> None:
    """Configure the process's logs. Warnings of libraries that use `logging` appear in the same format.

    Stacks are printed without local variables, which may hold a password; structlog would show them
    wherever rich is installed.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if format_ == "json":
        processors += [structlog.processors.ExceptionRenderer(_stack), structlog.processors.JSONRenderer()]
    else:
        processors += [
            _show,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_stack),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    of_libraries: logging.Formatter = _Plain("%(levelname)s %(name)s: %(message)s")
    if format_ == "json":
        of_libraries = structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*processors[:-1], structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, processors[-1]],
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(of_libraries)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # aiokafka logs every broken connection with a stack; our own events report an outage once. And
    # its debug lines contain requests, including a password that is sent with PLAIN.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def _stack(exc_info: _ExcInfo) -> str:
    """The same for JSON, which can hold any character."""
    return bounded_stack("".join(traceback.format_exception(*exc_info)))


def _show(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape the strings that the console renderer would print unchanged.

    It prints strings with spaces or quotes, and other types, with `repr`, which escapes by itself.
    """
    if "exception" in line:  # a stack that came as text; the renderer warns of one under this name
        line["stack"] = line.pop("exception")
    for name, value in line.items():
        if name == "stack":
            line[name] = visible_lines(str(value))
        elif isinstance(value, str) and (name == "event" or not set(value) & set(" \t=\r\n\"'")):
            line[name] = visible(value)
    return line


def _write_stack(file: TextIO, exc_info: _ExcInfo | tuple[None, None, None]) -> None:
    if exc_info[1] is not None:
        file.write("\n" + stack_of(exc_info[1]))


class _Plain(logging.Formatter):
    """Formats the lines of libraries, escaped like ours."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging names it
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging names it
        return stack_of(ei[1])


def log_uncaught_errors() -> None:
    """Log uncaught errors and warnings, which the interpreter would print to standard error as text.

    For applications, not for libraries: it applies to the whole interpreter.
    """

    def of_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical(events.UNHANDLED, exc_info=(kind, error, trace))

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            name = args.thread.name if args.thread else None
            log.error(events.UNHANDLED, thread=name, exc_info=args.exc_value)

    def of_finalizer(args: sys.UnraisableHookArgs) -> None:
        about = f"{args.err_msg or 'Exception ignored in'}: {args.object!r}"
        log.error(events.UNHANDLED, about=about, exc_info=args.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = of_main, of_thread, of_finalizer
    logging.captureWarnings(True)
