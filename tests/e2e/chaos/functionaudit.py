"""What must hold for handlers that run in a function, beyond what holds for all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from awakeables.core.invocations import Invocation
from awakeables.core.journal import CallRequested
from awakeables.core.outcomes import Resolution
from e2e.chaos.evidence import Evidence, Violation
from e2e.chaos.faults import AWAY, FUNCTION_FAULTS, Harm
from e2e.chaos.functions import TIMEOUT, VAULTS

CALLERS = ("transfer", "deposits")
"""Handlers that call the function's `deposit`: one in the function, one in the instances."""

UNFENCED = (
    "freeze an instance",
    "freeze the function",
    "stall the store",
    "deafen to the store",
    "freeze PostgreSQL",
    "stop PostgreSQL",
)
"""Whoever was held up so may go on with what it had begun before another owner ended it (J3)."""

HELD_UP_MS = 2 * TIMEOUT // timedelta(milliseconds=1)
"""So long after such a fault the last request of whoever was held up is over at most."""


def violations(evidence: Evidence) -> Iterator[Violation]:
    yield from _callers_were_told_how_it_ended(evidence)
    yield from _nothing_is_executed_after_its_result(evidence)
    yield from _faults_hit_invocations_under_way(evidence)
    yield from _an_outage_was_noticed(evidence)


def remote(evidence: Evidence) -> list[Invocation]:
    """All invocations that went through the function."""
    return [row for row in evidence.invocations.values() if row.service == VAULTS]


def under_way(evidence: Evidence, harm: Harm) -> int:
    """How many of them were open at some time of a fault."""
    return sum(
        row.created_ms <= harm.ended_ms and (row.ended_ms is None or row.ended_ms >= harm.began_ms)
        for row in remote(evidence)
    )


def _callers_were_told_how_it_ended(evidence: Evidence) -> Iterator[Violation]:
    for row in evidence.invocations.values():
        if row.handler not in CALLERS:
            continue
        ids = [entry.id for entry in evidence.journals[row.id] if isinstance(entry, CallRequested)]
        callees = [evidence.invocations[each] for each in ids if each in evidence.invocations]
        if not callees or {callee.service for callee in callees} != {VAULTS}:
            yield Violation(kind="lost", what=f"{row.id} called the function as {ids}, there are {callees}")
            continue
        theirs, told = [_told(callee) for callee in callees], _told(row)
        seen = [each for one in theirs for each in one["seen"]]
        effects = [each for one in theirs for each in one["effects"]]
        if (told["seen"][: len(seen)], told["effects"]) != (seen, effects):
            yield Violation(kind="told wrongly", what=f"{row.id} was told {told}, its callees ended {theirs}")


def _nothing_is_executed_after_its_result(evidence: Evidence) -> Iterator[Violation]:
    """J3: whoever executes it then has not read the journal, or was held up since."""
    for line in executed_late(evidence):
        if not any(_is_held_up(line["at_ms"], harm) for harm in evidence.harms):
            yield Violation(kind="settled twice", what=f"J3: {line} came after its result was recorded")


def executed_late(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """An action before a task is over when a worker has that; each one when its invocation has ended."""
    deposits = {
        row.id: row
        for row in remote(evidence)
        if row.handler == "deposit" and isinstance(row.result, Resolution)
    }
    first = {row.id: _told(row)["effects"][0] for row in deposits.values()}
    asked = {_told(row)["seen"][0]["id"]: row.id for row in deposits.values()}
    keys = {line["nonce"]: line["key"] for line in evidence.lines("effect")}
    worked_on: set[str] = set()
    for line in evidence.ledger:
        if line.get("id") in asked:
            worked_on.add(asked[line["id"]])
        row = deposits.get(line.get("invocation", ""))
        if row is None or line["kind"] != "effect":
            continue
        is_first = line["key"] == keys.get(first[row.id])
        has_ended = row.ended_ms is not None and line["at_ms"] > row.ended_ms
        if has_ended or (is_first and row.id in worked_on):
            yield line


def _is_held_up(at_ms: int, harm: Harm) -> bool:
    return harm.name.startswith(UNFENCED) and harm.began_ms <= at_ms <= harm.ended_ms + HELD_UP_MS


def _faults_hit_invocations_under_way(evidence: Evidence) -> Iterator[Violation]:
    """A fault of the function in which nobody needed it shows nothing."""
    for harm in evidence.harms:
        if harm.name in FUNCTION_FAULTS and not under_way(evidence, harm):
            yield Violation(kind="lost", what=f"no invocation of the function was open in: {harm}")


def _an_outage_was_noticed(evidence: Evidence) -> Iterator[Violation]:
    """By an instance that sent it no more requests until it answered again."""
    if any(harm.name == AWAY for harm in evidence.harms) and not evidence.outages:
        yield Violation(kind="lost", what="the function was away, and no instance found it down")


def _told(row: Invocation) -> dict[str, Any]:
    assert isinstance(row.result, Resolution), row
    return dict(json.loads(row.result.content))
