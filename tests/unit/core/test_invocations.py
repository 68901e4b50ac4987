"""Every transition of an invocation, legal and illegal."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from awakeables.core.invocations import (
    CRASHED,
    MAX_STARTS,
    STATUSES,
    BackOff,
    Continue,
    End,
    Failure,
    Invocation,
    Next,
    Pause,
    Status,
    Suspend,
    advance,
    at_once,
    claim,
    owns,
    release,
    resume,
    wake,
)
from awakeables.core.outcomes import Resolution

NOW_MS = 500
FAILURE = Failure(kind="ValueError", message="no", at_ms=1)
DONE = Resolution.of_json(b"1")
STEPS: dict[str, Next] = {
    "continue": Continue(),
    "suspend": Suspend(wake=3, due_ms=900),
    "suspend, told more meanwhile": Suspend(wake=2, due_ms=900),
    "suspend, runnable": Suspend(wake=-1),
    "back off": BackOff(due_ms=900, failure=FAILURE),
    "pause": Pause(failure=FAILURE),
    "end": End(result=DONE),
}


def row(status: Status = "running", **fields: Any) -> Invocation:
    owner = "me" if status == "running" else None
    defaults: dict[str, Any] = {"wake": 3, "epoch": 2, "version": 7, "owner": owner}
    return Invocation(
        id="i", service="s", handler="h", created_ms=1, updated_ms=1, status=status, **(defaults | fields)
    )


def step(name: str, before: Invocation, *, grows: bool = False) -> Invocation:
    return advance(before, STEPS[name], grows=grows, owner="me", number=5, build="b", now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("name", "status", "due_ms", "owner"),
    [
        ("continue", "running", None, "me"),
        ("suspend", "suspended", 900, None),
        ("suspend, told more meanwhile", "pending", at_once(NOW_MS), None),
        ("suspend, runnable", "pending", at_once(NOW_MS), None),
        ("back off", "backing-off", 900, None),
        ("pause", "paused", None, None),
        ("end", "completed", None, None),
    ],
)
def test_an_owner_s_step_leads_to_its_status(
    name: str, status: Status, due_ms: int | None, owner: str | None
) -> None:
    """O3, hard case 1: who was told something meanwhile stays runnable instead of suspending."""
    after = step(name, row())
    assert (after.status, after.due_ms, after.owner) == (status, due_ms, owner)
    assert (after.committed_by, after.commits, after.build, after.updated_ms) == ("me", 5, "b", NOW_MS)
    assert after.wake == 3


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("grows", [False, True])
def test_every_commit_clears_the_starts_and_a_chunk_counts_the_version(name: str, grows: bool) -> None:
    after = step(name, row(starts=4, attempts=2), grows=grows)
    assert after.version == 7 + grows
    assert after.starts == 0
    assert after.attempts == (0 if grows else 2) + (name == "back off")


@pytest.mark.parametrize("name", ["back off", "pause"])
def test_a_failure_is_kept_with_the_row(name: str) -> None:
    assert step(name, row()).failure == FAILURE


def test_an_end_keeps_the_result() -> None:
    assert step("end", row()).result == DONE


@pytest.mark.parametrize(
    ("status", "owner", "epoch", "version"),
    list(product(STATUSES, ("me", "other", None), (1, 2, 3), (6, 7, 8))),
)
def test_only_the_owner_under_its_epoch_and_version_may_commit(
    status: Status, owner: str | None, epoch: int, version: int
) -> None:
    """J1: the fence, over every status, owner, epoch and version."""
    held = row(status, owner=owner)
    may = owns(held, owner="me", epoch=epoch, version=version)
    assert may == ((status, owner, epoch, version) == ("running", "me", 2, 7))


def test_a_claim_counts_the_epoch_and_the_start() -> None:
    after = claim(row("pending", due_ms=3), owner="you", now_ms=NOW_MS)
    assert (after.status, after.owner, after.epoch, after.starts, after.due_ms) == (
        "running",
        "you",
        3,
        1,
        None,
    )


def test_five_starts_without_a_commit_park_the_invocation() -> None:
    """Hard case 11: a handler that kills its process is not resumed for ever."""
    invocation = row("pending")
    for _ in range(MAX_STARTS):
        invocation = claim(invocation, owner="you", now_ms=NOW_MS)
        assert invocation.status == "running"
        invocation = release(invocation, now_ms=NOW_MS)
    parked = claim(invocation, owner="you", now_ms=NOW_MS)
    assert (parked.status, parked.owner, parked.due_ms) == ("paused", None, None)
    assert parked.failure is not None
    assert parked.failure.kind == CRASHED
    resumed = resume(parked, now_ms=NOW_MS)
    assert resumed is not None
    assert claim(resumed, owner="you", now_ms=NOW_MS).status == "running"


@pytest.mark.parametrize("status", STATUSES)
def test_a_wake_is_always_counted_and_makes_only_the_suspended_runnable(status: Status) -> None:
    """Hard case 1."""
    before = row(status, due_ms=77)
    after = wake(before, now_ms=NOW_MS)
    assert after.wake == 4
    if status == "suspended":
        assert (after.status, after.due_ms) == ("pending", at_once(NOW_MS))
    else:
        assert (after.status, after.due_ms) == (status, 77)


@pytest.mark.parametrize("status", STATUSES)
def test_only_what_is_paused_or_backing_off_can_be_resumed(status: Status) -> None:
    after = resume(
        row(status, attempts=9, starts=3, failure_json=msgspec.json.encode(FAILURE)), now_ms=NOW_MS
    )
    if status not in ("paused", "backing-off"):
        assert after is None
        return
    assert after is not None
    assert (after.status, after.due_ms, after.attempts, after.starts) == ("pending", at_once(NOW_MS), 0, 0)


def test_a_released_invocation_is_runnable_and_its_old_owner_is_fenced() -> None:
    """O1."""
    after = release(row(), now_ms=NOW_MS)
    assert (after.status, after.owner, after.due_ms) == ("pending", None, at_once(NOW_MS))
    again = claim(after, owner="me", now_ms=NOW_MS)
    assert not owns(again, owner="me", epoch=2, version=7)
    assert owns(again, owner="me", epoch=3, version=7)


VERBS = ("claim", "wake", "release", "resume", *STEPS)


@given(st.lists(st.sampled_from(VERBS), max_size=40))
def test_whatever_happens_in_whatever_order_a_row_can_be_gone_on_with(verbs: list[str]) -> None:
    """O3: what is not done and not parked has an owner, or a time, or waits to be woken."""
    invocation = row("pending", owner=None, due_ms=0)
    for verb in verbs:
        before = invocation
        if verb == "claim" and invocation.due_ms is not None:
            invocation = claim(invocation, owner="me", now_ms=NOW_MS)
        elif verb == "wake":
            invocation = wake(invocation, now_ms=NOW_MS)
        elif verb == "release" and invocation.status == "running":
            invocation = release(invocation, now_ms=NOW_MS)
        elif verb == "resume":
            invocation = resume(invocation, now_ms=NOW_MS) or invocation
        elif verb in STEPS and invocation.status == "running":
            invocation = step(verb, invocation)
        assert invocation.epoch >= before.epoch
        assert invocation.wake >= before.wake
        assert (invocation.owner is not None) == (invocation.status == "running")
        assert (invocation.due_ms is not None) >= (invocation.status in ("pending", "backing-off"))
        if invocation.status in ("running", "paused", "completed"):
            assert invocation.due_ms is None
        if before.status == "completed":
            assert (invocation.status, invocation.result) == ("completed", before.result)
