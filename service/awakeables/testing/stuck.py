"""Why an invocation of a test goes on no further."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from awakeables.core.awakeables import PROMISE, AwakeableRow
from awakeables.core.invocations import Failure, Invocation
from awakeables.core.records import text_from
from awakeables.core.texts import message_of, type_of
from awakeables.errors import AwakeablesError
from awakeables.testing.simulated import SimulatedService


class Stuck(AwakeablesError):
    """The handler waits for answers that will never come."""


class Paused(AwakeablesError):
    """The invocation was paused: its retries are exhausted, or its code can't be replayed.

    Or the test has paused it, its handler, its service or its key. The `__cause__` is the exception of the
    handler or its action, if there was one.
    """


def why_open(service: SimulatedService, name: str, row: Invocation, advice: str) -> AwakeablesError:
    """Why an invocation has no result: it or what it waits for is paused, or nobody answers.

    Args:
        service: Where it is.
        name: The handler.
        row: The invocation.
        advice: What to do if nobody answers.
    """
    if row.status == "paused" and row.failure is not None:
        return _paused(service, row.failure, "")
    waits = _waits(service, row)
    for other in waits.invocations:
        if other.status == "paused" and other.failure is not None:
            where = f"{name} waits for {other.service}/{other.handler}, which is paused: "
            return _paused(service, other.failure, where)
    for other in waits.invocations:
        if (paused := service.store.pause_of(other)) is not None:
            return Paused(f"{name} waits for {paused}, which is paused: it goes on when that is resumed")
    for other in waits.invocations:
        if service.code.awaits(other.id):
            of = "" if other is row else f"{other.service}/{other.handler}, which "
            return Stuck(f"{name} {of and 'waits for '}{of}awaits something of asyncio's that never comes")
    waiting = ", ".join(map(service.outside.describe, waits.awakeables))
    promises = " and ".join(map(repr, waits.promises))
    if promises and not waiting:
        return Stuck(
            f"{name} waits for the promise {promises}, which no handler settles: "
            "let a handler that is called settle it, or give the wait a timeout"
        )
    return Stuck(f"{name} waits for {waiting or 'nothing that is due'} and nobody answers: {advice}")


class _Waits(NamedTuple):
    """What an invocation waits for.

    Attributes:
        invocations: Itself and those that must end or go on before it, in the order in which they are found.
        awakeables: The awakeables that these wait for.
        promises: The names of their promises.
    """

    invocations: list[Invocation]
    awakeables: list[AwakeableRow]
    promises: list[str]


def _waits(service: SimulatedService, row: Invocation) -> _Waits:
    """What it waits for: itself, what it calls, what is before these in a queue, and so on."""
    rows = {each.id: each for each in service.store.all_invocations()}
    pending = service.store.pending()
    found, left, seen = _Waits([], [], []), [row.id], set[str]()
    while left:
        invocation_id = left.pop(0)
        invocation = rows.get(invocation_id)  # None: what is waited for is a promise
        if invocation is None or invocation_id in seen or invocation.status == "completed":
            continue
        seen.add(invocation_id)
        found.invocations.append(invocation)
        if invocation.status == "queued":
            left += [each.id for each in rows.values() if _is_before(each, invocation)]
        for wait in pending:
            if wait.invocation_id != invocation_id:
                continue
            if wait.source is None:
                found.awakeables.append(wait)
            elif wait.title is not None and wait.source_utf8 != PROMISE:
                found.promises.append(text_from(wait.title))
            else:
                left.append(wait.source)
    return found


def _is_before(one: Invocation, other: Invocation) -> bool:
    """Whether an invocation is before another one in the queue of their key."""
    same = (one.service, one.key) == (other.service, other.key)
    return same and one.result is None and one.ticket is not None and one.ticket < (other.ticket or 0)


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
