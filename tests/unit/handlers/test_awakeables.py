"""What awaiting an awakeable gives: the value as its type, or one of three terminal errors."""

from __future__ import annotations

from datetime import timedelta
from types import NoneType
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter

from awakeables import Cancelled, Context, Reject, Rejected, Task, TerminalError, TimedOut, Worker
from awakeables.core.ids import parse_id
from awakeables.core.outcomes import Cancellation, Expiry, Rejection, Resolution
from awakeables.handlers.execution import value_of
from awakeables.testing import Paused, Stuck
from unit.handlers.conftest import Runs
from unit.handlers.shapes import PARCEL, Backwards, Box, Parcel

HUGE = 2**64 + 1


@pytest.mark.parametrize(
    ("type_", "answer"),
    [
        (Parcel, {"id": "p-9"}),
        (Box, {"width": 3}),
        (list[Parcel], [{"id": "a"}, {"id": "b"}]),
        (dict[str, int], {"a": 1}),
        (int, HUGE),
        (int | None, None),
        (float, 0.25),
        (str, "päckchen \u0000 📦"),
        (bool, True),
        (NoneType, None),
        (Literal["yes", "no"], "yes"),
        (None, {"anything": [1, None, HUGE]}),
        (Any, [0.5]),
    ],
    ids=str,
)
def test_an_answer_is_read_as_the_type_that_was_asked_for(run: Runs, type_: Any, answer: Any) -> None:
    got: list[Any] = []

    async def handler(ctx: Context) -> Any:
        awakeable = ctx.awakeable(type_)
        ctx.publish("pack", "please", awakeable=awakeable)
        got.append(await awakeable)
        return None

    run(handler, answers={"pack": lambda task: answer})
    expected = answer if type_ is None else TypeAdapter(type_).validate_python(answer)
    assert got
    assert all(value == expected and type(value) is type(expected) for value in got)


def test_an_awakeable_of_bytes_is_answered_with_bytes(run: Runs) -> None:
    async def handler(ctx: Context) -> bytes:
        awakeable = ctx.awakeable(bytes)
        ctx.publish("scan", "please", awakeable=awakeable)
        return await awakeable

    def scan(task: Task[str]) -> bytes:
        return b"\x00\xff"

    assert run(handler, answers={"scan": scan}).value == b"\x00\xff"


def test_a_custom_serde_reads_the_answer(run: Runs) -> None:
    worker = Worker("mirror")

    @worker.task("mirror", serde=Backwards())
    def mirror(task: Task[str]) -> str:
        return task.payload

    async def handler(ctx: Context) -> str:
        awakeable = ctx.awakeable(serde=Backwards())
        ctx.publish("mirror", "hello", awakeable=awakeable)
        return await awakeable

    assert run(handler, workers=[worker]).value == "hello"


def test_bytes_that_a_custom_serde_can_t_read_are_a_terminal_error(run: Runs) -> None:
    """Hard case 7: they can't be checked at the edge."""

    async def handler(ctx: Context) -> str:
        awakeable = ctx.awakeable(serde=Backwards())
        ctx.publish("mirror", "hello", awakeable=awakeable)
        return await awakeable

    def broken(task: Task[str]) -> bytes:
        return b"\xff"

    with pytest.raises(TerminalError, match=r"the answer to awakeable prom_1\w+ can't be decoded") as caught:
        _ = run(handler, answers={"mirror": broken}).value
    assert caught.value.code == 422


def test_an_awakeable_may_be_awaited_any_number_of_times(run: Runs) -> None:
    async def handler(ctx: Context) -> list[int]:
        awakeable = ctx.awakeable(Parcel)
        ctx.publish("pack", "please", awakeable=awakeable)
        values = [await awakeable, await awakeable.promise, await awakeable]
        return [parcel.weight for parcel in values]

    calls: list[str] = []

    def pack(task: Task[str]) -> Any:
        calls.append(task.awakeable_id)
        return PARCEL

    result = run(handler, answers={"pack": pack})
    assert result.value == [1, 1, 1]
    assert len(calls) == 1
    assert sum(line.startswith("outcome") for line in result.journal) == 1


def test_a_rejection_is_raised_each_time_it_is_awaited(run: Runs) -> None:
    async def handler(ctx: Context) -> int:
        awakeable = ctx.awakeable()
        ctx.publish("pack", "please", awakeable=awakeable)
        times = 0
        for _ in range(3):
            try:
                await awakeable
            except Rejected:
                times += 1
        return times

    assert run(handler, answers={"pack": say_no}).value == 3


def test_it_unpacks_to_its_id_and_its_promise(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        awakeable = ctx.awakeable(int)
        awakeable_id, promise = awakeable
        assert awakeable_id == awakeable.id
        assert promise is awakeable.promise
        ctx.publish("pack", awakeable_id, awakeable=awakeable)
        return [awakeable_id, await promise]

    result = run(handler, answers={"pack": lambda task: 7})
    assert result.value == [result.published[0].awakeable_id, 7]
    assert result.published[0].payload == result.value[0]
    parse_id(result.value[0], "prom")


def test_several_awakeables_are_awaited_in_any_order(run: Runs) -> None:
    async def handler(ctx: Context) -> list[int]:
        several = [ctx.awakeable(int) for _ in range(4)]
        for number, awakeable in enumerate(several):
            ctx.publish("pack", number, awakeable=awakeable)
        return [await awakeable for awakeable in reversed(several)]

    assert run(handler, answers={"pack": lambda task: task.payload}).value == [3, 2, 1, 0]


def say_no(task: Task[Any]) -> None:
    raise Reject("out of stock", code=409, details={"sku": "x", "exact": HUGE})


def test_a_rejection_has_reason_code_and_details(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        awakeable = ctx.awakeable(Parcel)
        ctx.publish("pack", "please", awakeable=awakeable)
        try:
            await awakeable
        except Rejected as error:
            return [error.reason, error.code, error.details]
        return []

    result = run(handler, answers={"pack": say_no})
    assert result.value == ["out of stock", 409, {"sku": "x", "exact": HUGE}]


def test_a_rejection_that_nobody_catches_ends_the_invocation_without_a_retry(run: Runs) -> None:
    async def handler(ctx: Context) -> Parcel:
        awakeable = ctx.awakeable(Parcel)
        ctx.publish("pack", "please", awakeable=awakeable)
        return await awakeable

    result = run(handler, answers={"pack": say_no})
    assert result.status == "completed"
    with pytest.raises(TerminalError) as caught:
        _ = result.value
    assert repr(caught.value) == (
        f"TerminalError('out of stock', code=409, details={{'sku': 'x', 'exact': {HUGE}}})"
    )


def test_a_wait_ends_at_its_deadline(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        awakeable = ctx.awakeable(Parcel, timeout=timedelta(days=90))
        ctx.publish("pack", "please", awakeable=awakeable)
        try:
            await awakeable
        except TimedOut as error:
            return [error.code, awakeable.id in error.reason, error.details]
        return []

    result = run(handler)
    assert result.value == [408, True, None]
    assert timedelta(days=90) <= result.duration < timedelta(days=90, seconds=2)
    assert result.published[0].headers["awakeable-deadline"] == "2026-04-01T00:00:00.000Z"


def test_an_answer_in_time_is_kept_although_it_is_awaited_after_the_deadline(run: Runs) -> None:
    """A3: a completion that comes before the await is kept, and delivered."""

    async def handler(ctx: Context) -> int:
        awakeable = ctx.awakeable(int, timeout=timedelta(hours=1))
        ctx.publish("pack", "please", awakeable=awakeable)
        await ctx.sleep(timedelta(days=2))
        return await awakeable

    assert run(handler, answers={"pack": lambda task: 7}).value == 7


def test_a_time_out_of_no_time_is_a_misuse(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        await ctx.awakeable(int, timeout=timedelta(0))

    with pytest.raises(Paused, match="timeout must be positive"):
        _ = run(handler).value


def test_a_type_that_nobody_can_validate_is_a_misuse(run: Runs) -> None:
    class Opaque:
        pass

    async def handler(ctx: Context) -> None:
        await ctx.awakeable(Opaque)

    with pytest.raises(Paused, match=r"ctx\.awakeable: .*Opaque.* is not a type that pydantic can validate"):
        _ = run(handler).value


def test_an_answer_that_nobody_gives_is_reported_by_the_kit(run: Runs) -> None:
    async def handler(ctx: Context) -> Any:
        return await ctx.awakeable()

    result = run(handler)
    assert result.status == "suspended"
    with pytest.raises(Stuck, match=r"waits for prom_1\w+ and nobody answers"):
        _ = result.value


def test_each_end_of_an_awakeable_is_its_error() -> None:
    with pytest.raises(Rejected, match="no") as rejected:
        value_of(Rejection(reason="no", code=418), "prom_1x")
    with pytest.raises(TimedOut, match="awakeable prom_1x timed out") as timed_out:
        value_of(Expiry(deadline_ms=1), "prom_1x")
    with pytest.raises(Cancelled, match="awakeable prom_1x was cancelled: its invocation ended") as cancelled:
        value_of(Cancellation(reason="its invocation ended"), "prom_1x")
    errors = [rejected.value, timed_out.value, cancelled.value]
    assert [(type(error).__mro__[1], error.code, error.details) for error in errors] == [
        (TerminalError, 418, None),
        (TerminalError, 408, None),
        (TerminalError, 409, None),
    ]
    assert value_of(Resolution.of_json(b"1"), "prom_1x") == Resolution.of_json(b"1")
