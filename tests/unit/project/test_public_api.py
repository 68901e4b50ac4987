"""The public names: about twenty-five, all there, none by accident."""

from __future__ import annotations

import awakeables
from awakeables import testing

PUBLIC = {
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
}


def test_the_public_names_are_these() -> None:
    assert set(awakeables.__all__) == PUBLIC
    assert all(hasattr(awakeables, name) for name in PUBLIC)


def test_the_testing_names_are_these() -> None:
    one = {"Answer", "PendingAwakeable", "Published", "Run", "run"}
    errors = {"Endless", "Paused", "Stuck", "WrongAnswer"}
    app = {"Harness", "Running", "SentTask", "WaitingAwakeable"}
    awaited = {"AsyncHarness", "AsyncRunning", "AsyncSentTask"}
    assert set(testing.__all__) == one | errors | app | awaited | {"Replayed", "replay"}


def test_failures_of_an_awakeable_are_terminal() -> None:
    for error in (awakeables.Rejected, awakeables.TimedOut, awakeables.Cancelled, awakeables.PayloadError):
        assert issubclass(error, awakeables.TerminalError)


def test_suspended_is_not_an_exception_that_user_code_catches() -> None:
    assert not issubclass(awakeables.Suspended, Exception)
