"""Why an invocation of a test goes on no further."""

from __future__ import annotations

from collections.abc import Iterator

from awakeables.core.awakeables import PROMISE
from awakeables.core.invocations import Failure, Invocation
from awakeables.core.records import text_from
from awakeables.core.texts import message_of, type_of
from awakeables.errors import AwakeablesError
from awakeables.testing.simulated import SimulatedService


class Stuck(AwakeablesError):
    """The handler waits for answers that will never come."""


class Paused(AwakeablesError):
    """The invocation was paused: its retries are exhausted, or its code can't be replayed.

    Its `__cause__` is the exception of the handler or its action, if there was one.
    """


def why_open(service: SimulatedService, name: str, row: Invocation, advice: str) -> AwakeablesError:
    """Why an invocation has no result: it or what it calls is paused, or nobody answers.

    Args:
        service: Where it is.
        name: The handler.
        row: The invocation.
        advice: What to do if nobody answers.
    """
    if row.status == "paused" and row.failure is not None:
        return _paused(service, row.failure, "")
    other = _paused_callee(service, row)
    if other is not None and other.failure is not None:
        where = f"{name} waits for {other.service}/{other.handler}, which is paused: "
        return _paused(service, other.failure, where)
    if service.live:
        return Stuck(f"{name} awaits something of asyncio's that never comes")
    waiting = ", ".join(map(service.outside.describe, service.pending()))
    promises = [
        repr(text_from(wait.title))
        for wait in service.store.tables.awakeables.values()
        if wait.state == "pending" and wait.title is not None and wait.source_utf8 != PROMISE
    ]
    if promises and not waiting:
        return Stuck(
            f"{name} waits for the promise {' and '.join(promises)}, which no handler settles: "
            "let one of those that it calls settle it, or give the wait a timeout"
        )
    return Stuck(f"{name} waits for {waiting or 'nothing that is due'} and nobody answers: {advice}")


def _paused_callee(service: SimulatedService, row: Invocation) -> Invocation | None:
    """The paused invocation that this one waits for, or that a call of its own waits for, and so on."""
    tables = service.store.tables
    waits = [wait for wait in tables.awakeables.values() if wait.state == "pending"]
    left, seen = [row.id], set[str]()
    while left:
        invocation_id = left.pop()
        if invocation_id in seen:
            continue
        seen.add(invocation_id)
        for source in [wait.source for wait in waits if wait.invocation_id == invocation_id and wait.source]:
            call = tables.invocations.get(source)  # or a promise
            if call is not None and call.status == "paused":
                return call
            if call is not None:
                left.append(call.id)
    return None


def _paused(service: SimulatedService, failure: Failure, where: str) -> Paused:
    paused = Paused(f"{where}{failure.kind}: {failure.message}")
    paused.__cause__ = _of_the_author(next(_failures_like(service, failure), None))
    return paused


def _failures_like(service: SimulatedService, failure: Failure) -> Iterator[BaseException]:
    for error in reversed(service.failures):
        if (type_of(error), message_of(error)) == (failure.kind, failure.message):
            yield error


def _of_the_author(error: BaseException | None) -> BaseException | None:
    """An error whose stack starts in the author's code."""
    if error is None:
        return None
    stack = error.__traceback__
    while stack is not None and stack.tb_frame.f_globals.get("__name__", "").startswith("awakeables."):
        stack = stack.tb_next
    return error.with_traceback(stack or error.__traceback__)
