"""`ctx.resolve_awakeable` and `ctx.reject_awakeable`: the answer is the verdict (A2)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context, Rejected, TerminalError, TimedOut, Verdict
from awakeables.core.outcomes import Resolution
from awakeables.testing.loop import STARTED_MS
from support.ids import new_id
from unit.handlers.conftest import Runs
from unit.handlers.shapes import PARCEL, Parcel


def test_a_handler_may_resolve_its_own_awakeable(run: Runs) -> None:
    async def handler(ctx: Context) -> Parcel:
        awakeable = ctx.awakeable(Parcel)
        verdict = await ctx.resolve_awakeable(awakeable.id, Parcel(id="p-9"))
        assert isinstance(verdict, Verdict)
        assert (verdict.kind, verdict.awakeable_id) == ("accepted", awakeable.id)
        assert verdict.source == f"handler:{ctx.request.invocation_id}:2"
        return await awakeable

    assert run(handler).value == PARCEL


@pytest.mark.parametrize(
    ("first", "second", "kinds"),
    [
        (1, 1, ["accepted", "duplicate"]),
        (1, 2, ["accepted", "conflict"]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, ["accepted", "duplicate"]),
        (None, None, ["accepted", "duplicate"]),
    ],
)
def test_the_second_answer_gets_duplicate_or_conflict(
    run: Runs, first: Any, second: Any, kinds: list[str]
) -> None:
    """Hard case 6."""

    async def handler(ctx: Context) -> list[Any]:
        awakeable = ctx.awakeable()
        verdicts = [await ctx.resolve_awakeable(awakeable.id, value) for value in (first, second)]
        assert verdicts[1].outcome == Resolution.of_json(verdicts[0].outcome.content)  # type: ignore[union-attr]
        assert await awakeable == first
        return [verdict.kind for verdict in verdicts]

    assert run(handler).value == kinds


def test_a_rejection_reaches_the_waiting_handler(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        awakeable = ctx.awakeable(Parcel)
        verdict = await ctx.reject_awakeable(awakeable.id, "broken", code=418, details=[1])
        again = await ctx.reject_awakeable(awakeable.id, "broken", code=418, details=[1])
        other = await ctx.resolve_awakeable(awakeable.id, PARCEL)
        try:
            await awakeable
        except Rejected as error:
            return [verdict.kind, again.kind, other.kind, error.reason, error.code, error.details]
        return []

    assert run(handler).value == ["accepted", "duplicate", "conflict", "broken", 418, [1]]


def test_a_value_that_does_not_fit_is_invalid_and_the_awakeable_stays_pending(run: Runs) -> None:
    """A4."""

    async def handler(ctx: Context) -> list[str]:
        awakeable = ctx.awakeable(Parcel)
        wrong = await ctx.resolve_awakeable(awakeable.id, {"id": 5})
        right = await ctx.resolve_awakeable(awakeable.id, PARCEL)
        await awakeable
        return [wrong.kind, wrong.reason or "", right.kind]

    kind, reason, right = run(handler).value
    assert (kind, right) == ("invalid", "accepted")
    assert "id" in reason


def test_bytes_resolve_an_awakeable_of_bytes_only(run: Runs) -> None:
    async def handler(ctx: Context) -> list[str]:
        raw, parcel = ctx.awakeable(bytes), ctx.awakeable(Parcel)
        verdicts = [
            await ctx.resolve_awakeable(raw.id, "text"),
            await ctx.resolve_awakeable(raw.id, b"\xff"),
            await ctx.resolve_awakeable(parcel.id, b"{}"),
        ]
        assert await raw == b"\xff"
        return [verdict.kind for verdict in verdicts]

    assert run(handler).value == ["invalid", "accepted", "invalid"]


def test_an_id_that_was_never_issued_is_unknown(run: Runs) -> None:
    never = new_id("prom", at_ms=STARTED_MS, entropy=bytes(10))

    async def handler(ctx: Context) -> str:
        return (await ctx.resolve_awakeable(never, 1)).kind

    assert run(handler).value == "unknown"


def test_an_answer_after_the_deadline_is_late(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        awakeable = ctx.awakeable(int, timeout=timedelta(minutes=1))
        await ctx.sleep(timedelta(minutes=2))
        verdict = await ctx.resolve_awakeable(awakeable.id, 1)
        with pytest.raises(TimedOut):
            await awakeable
        return verdict.kind

    assert run(handler).value == "late"


@pytest.mark.parametrize("text", ["", "prom_1x", "order-17", "\ud800"], ids=ascii)
@pytest.mark.parametrize("verb", ["resolve", "reject"])
def test_what_is_not_an_id_is_a_terminal_error(run: Runs, text: str, verb: str) -> None:
    async def handler(ctx: Context) -> None:
        if verb == "resolve":
            await ctx.resolve_awakeable(text, 1)
        else:
            await ctx.reject_awakeable(text, "no")

    with pytest.raises(TerminalError, match="is not an awakeable ID") as caught:
        _ = run(handler).value
    assert caught.value.code == 400


def test_a_settlement_that_is_never_awaited_is_detected(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        ctx.resolve_awakeable(ctx.awakeable().id, 1)

    from awakeables import RetryPolicy
    from awakeables.testing import Paused

    with pytest.raises(Paused, match=r"never awaited: ctx\.resolve_awakeable"):
        _ = run(handler, retry=RetryPolicy(max_attempts=1)).value
