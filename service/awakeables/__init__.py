"""Durable callbacks over Kafka: hand out work, wait for months, resume exactly once."""

from awakeables.core.awakeables import Verdict
from awakeables.errors import (
    AwakeablesError,
    Cancelled,
    PayloadError,
    QuorumFailed,
    Rejected,
    Suspended,
    TerminalError,
    TimedOut,
)
from awakeables.handlers.context import Context, Request
from awakeables.handlers.current import current_context
from awakeables.handlers.execution import Awakeable, Durable, Promise
from awakeables.handlers.invoking import Call
from awakeables.handlers.keyring import KeyRing
from awakeables.handlers.late import Late
from awakeables.handlers.objectcontext import ObjectContext, SharedContext
from awakeables.handlers.promises import DurablePromise, PromiseName
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.schedule import Schedule
from awakeables.handlers.serde import Serde
from awakeables.handlers.service import App, Service, VirtualObject, Workflow
from awakeables.handlers.state import State
from awakeables.handlers.subscription import KafkaRecord, Subscription
from awakeables.ports import PayloadCodec
from awakeables.worker.heartbeats import TaskOver
from awakeables.worker.task import Reject, Task
from awakeables.worker.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "App",
    "Awakeable",
    "AwakeablesError",
    "Call",
    "Cancelled",
    "Context",
    "Durable",
    "DurablePromise",
    "KafkaRecord",
    "KeyRing",
    "Late",
    "ObjectContext",
    "PayloadCodec",
    "PayloadError",
    "Promise",
    "PromiseName",
    "QuorumFailed",
    "Reject",
    "Rejected",
    "RemoteService",
    "Request",
    "RetryPolicy",
    "Schedule",
    "Serde",
    "Service",
    "SharedContext",
    "State",
    "Subscription",
    "Suspended",
    "Task",
    "TaskOver",
    "TerminalError",
    "TimedOut",
    "Verdict",
    "VirtualObject",
    "Worker",
    "Workflow",
    "current_context",
]
