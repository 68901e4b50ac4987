"""Durable callbacks over Kafka: hand out work, wait for months, resume exactly once."""

from awakeables.core.awakeables import Verdict
from awakeables.errors import (
    AwakeablesError,
    Cancelled,
    PayloadError,
    Rejected,
    Suspended,
    TerminalError,
    TimedOut,
)
from awakeables.handlers.context import Context, Request
from awakeables.handlers.execution import Awakeable, Durable, Promise
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import Serde
from awakeables.handlers.service import App, Service
from awakeables.worker.task import Reject, Task
from awakeables.worker.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "App",
    "Awakeable",
    "AwakeablesError",
    "Cancelled",
    "Context",
    "Durable",
    "PayloadError",
    "Promise",
    "Reject",
    "Rejected",
    "Request",
    "RetryPolicy",
    "Serde",
    "Service",
    "Suspended",
    "Task",
    "TerminalError",
    "TimedOut",
    "Verdict",
    "Worker",
]
