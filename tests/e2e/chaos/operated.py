"""The promises to operators: what is paused stands still and goes on, a restart begins one invocation."""

from __future__ import annotations

from collections.abc import Iterator

from awakeables.core.journal import Input
from e2e.chaos.evidence import Evidence, Violation

ENOUGH = 3
"""So many pauses of handlers can't all have been missed."""


def violations(evidence: Evidence) -> Iterator[Violation]:
    yield from _what_is_paused_stands_still(evidence)
    yield from _one_resume_ends_one_pause(evidence)
    yield from _paused_handlers_are_not_claimed(evidence)
    yield from _each_restart_begins_one_invocation(evidence)


def _what_is_paused_stands_still(evidence: Evidence) -> Iterator[Violation]:
    for act in evidence.acts:
        if act.kind != "pause":
            continue
        before, after = act.looks
        if before[0] == "paused" and before != after:
            yield Violation(kind="told wrongly", what=f"{act.target} was paused at {before}, then at {after}")
        kinds = [each.act for each in evidence.invocations[act.target].acts]
        if act.accepted and "pause" not in kinds:
            yield Violation(kind="lost", what=f"{act.target} was paused, and knows of {kinds}")


def _one_resume_ends_one_pause(evidence: Evidence) -> Iterator[Violation]:
    """All the more as nothing is open in the end."""
    for act in evidence.acts:
        if act.kind == "restart":
            continue
        if act.resumes > act.requests:
            yield Violation(
                kind="lost", what=f"{act.target} was paused {act.requests} times, resumed {act.resumes} times"
            )
        if act.kind == "pause a handler" and act.accepted and act.resumes == 0:
            yield Violation(kind="lost", what=f"the pause of {act.target} was not there any more")
    for target in evidence.pauses:
        yield Violation(kind="lost", what=f"{target} was resumed, and is still paused")


def _paused_handlers_are_not_claimed(evidence: Evidence) -> Iterator[Violation]:
    """An instance that was frozen may claim once more before it has read that; but not every time."""
    claims = [act.claims for act in evidence.acts if act.claims is not None]
    if len(claims) >= ENOUGH and all(claims):
        yield Violation(kind="told wrongly", what=f"handlers were paused, and claimed {claims} times")


def _each_restart_begins_one_invocation(evidence: Evidence) -> Iterator[Violation]:
    begun: dict[str, list[str]] = {}
    for invocation_id, (given, *_) in evidence.journals.items():
        if isinstance(given, Input) and given.restart_of is not None:
            begun.setdefault(given.restart_of, []).append(invocation_id)
    for act in evidence.acts:
        if act.kind != "restart" or not act.accepted:
            continue
        found = begun.pop(act.target, [])
        if act.into not in found:
            yield Violation(kind="lost", what=f"{act.target} was restarted as {act.into}, begun are {found}")
        if len(found) > act.requests:
            yield Violation(
                kind="settled twice", what=f"{act.target} was restarted {act.requests} times as {found}"
            )
        old = evidence.invocations[act.target]
        known = {each.into for each in old.acts if each.act == "restart"}
        if known != set(found):
            yield Violation(kind="told wrongly", what=f"{old.id} was restarted as {found}, knows of {known}")
        for new in (evidence.invocations[each] for each in found if each in evidence.invocations):
            if (new.service, new.handler, type(new.result)) != (old.service, old.handler, type(old.result)):
                yield Violation(kind="told wrongly", what=f"{old} was restarted as {new}")
    for old_id, found in begun.items():
        yield Violation(kind="settled twice", what=f"nobody has restarted {old_id} as {found}")
