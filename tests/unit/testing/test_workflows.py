"""The kit and workflows: a run with its promises, signals that come from what it calls."""

from __future__ import annotations

from datetime import timedelta

import pytest

from awakeables import (
    Context,
    KafkaRecord,
    ObjectContext,
    Service,
    SharedContext,
    TerminalError,
    Workflow,
)
from awakeables.errors import InvalidInput
from awakeables.testing import Stuck, run

signups = Workflow("signups")
VERIFIED = signups.promise("verified", bool)
STEP = signups.state("step", str, default="new")
mails = Service("mails")


@signups.run(topic="new-signups")
async def signup(ctx: ObjectContext, email: str) -> list[object]:
    ctx.set(STEP, "mailed")
    ctx.send(mail, email)
    if email == "patient":
        return [await ctx.promise(VERIFIED)]
    if email == "nobody":
        return [await ctx.promise(VERIFIED).peek(), (await ctx.promise(VERIFIED).resolve(True)).kind]
    async with ctx.timeout(timedelta(days=1)):
        return [ctx.key, await ctx.promise(VERIFIED)]


@signups.handler()
async def clicked(ctx: SharedContext, value: bool) -> str:
    if not value:
        return (await ctx.promise(VERIFIED).reject("not me", code=403)).kind
    return (await ctx.promise(VERIFIED).resolve(value)).kind


@mails.handler()
async def mail(ctx: Context, email: str) -> str | None:
    if email in ("silent", "patient"):
        return None
    return await ctx.call(clicked, email != "spam", key="k-1")


def test_a_run_is_signalled_by_what_it_calls() -> None:
    done = run(signup, "a@b", key="k-1")
    assert (done.value, done.state) == (["k-1", True], {"step": "mailed"})


def test_a_rejected_promise_raises() -> None:
    with pytest.raises(TerminalError, match="not me"):
        assert run(signup, "spam", key="k-1").value


def test_a_promise_that_nobody_settles_times_out() -> None:
    with pytest.raises(TerminalError, match="the time was up at") as raised:
        assert run(signup, "silent", key="k-1").value
    assert raised.value.code == 408


def test_a_run_that_waits_for_a_promise_for_good_is_told_so() -> None:
    waits = Workflow("waits")
    verified = waits.promise("verified", bool)

    @waits.run()
    async def wait(ctx: ObjectContext) -> bool:
        return await ctx.promise(verified)

    with pytest.raises(Stuck, match="run waits for the promise 'verified', which no handler settles"):
        assert run(wait, key="k-1").value


def test_a_promise_that_nobody_can_settle_any_more_is_named() -> None:
    with pytest.raises(Stuck, match="run waits for the promise 'verified', which no handler settles"):
        assert run(signup, "patient", key="k-1").value


def test_a_run_looks_at_its_own_promise_and_settles_it() -> None:
    assert run(signup, "nobody", key="k-1").value == [None, "accepted"]


def test_a_record_begins_a_run() -> None:
    done = run(signup, record=KafkaRecord(topic="new-signups", key=b"k-1", value=b'"a@b"'))
    assert done.value == ["k-1", True]


def test_a_run_needs_its_key() -> None:
    with pytest.raises(InvalidInput, match="which is called for a key"):
        run(signup, "a@b")
