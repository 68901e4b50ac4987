"""Time-outs of requests, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from awakeables.web.deadlines import Deadlines


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


async def ended_after(deadlines: Deadlines, seconds: float) -> float:
    """When a block that never ends by itself was ended."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    with pytest.raises(TimeoutError), deadlines.within(seconds):
        await hang()
    return loop.time() - began_s


@pytest.mark.parametrize("seconds", [0, 0.25, 60])
async def test_a_block_is_ended_when_its_time_is_over(seconds: float) -> None:
    assert await ended_after(Deadlines(), seconds) == pytest.approx(seconds, abs=0.01)


async def test_a_block_that_ends_in_time_is_left_alone() -> None:
    with Deadlines().within(1):
        await asyncio.sleep(0.9)
    await asyncio.sleep(1)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_lengths_do_not_hold_up_one_another() -> None:
    deadlines = Deadlines()
    lengths = [60, 1, 5, 0.5, 1, 7]
    took = await asyncio.gather(*(ended_after(deadlines, seconds) for seconds in lengths))
    assert took == pytest.approx(lengths, abs=0.01)


async def test_of_one_length_each_has_its_own_end() -> None:
    deadlines = Deadlines()
    first = asyncio.ensure_future(ended_after(deadlines, 10))
    await asyncio.sleep(4)
    second = asyncio.ensure_future(ended_after(deadlines, 10))
    assert await first == pytest.approx(10, abs=0.01)
    assert not second.done()
    assert await second == pytest.approx(10, abs=0.01)


async def test_all_have_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    made: list[float] = []
    call_at = loop.call_at

    def counted(when: float, *args: object, **kwargs: object) -> asyncio.TimerHandle:
        made.append(when)
        return call_at(when, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_at", counted)
    deadlines = Deadlines()
    for _ in range(100):
        with deadlines.within(5):
            pass
    assert len(made) == 1


async def test_the_inner_of_two_blocks_ends_alone() -> None:
    deadlines = Deadlines()
    with deadlines.within(5):
        assert await ended_after(deadlines, 1) == pytest.approx(1, abs=0.01)
        await asyncio.sleep(1)


async def test_an_error_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), Deadlines().within(5):
        raise ZeroDivisionError


async def test_a_task_that_is_cancelled_from_outside_is_cancelled() -> None:
    task = asyncio.ensure_future(ended_after(Deadlines(), 5))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_is_cancelled_while_its_time_runs_out_is_cancelled() -> None:
    """Both in one turn of the loop: whoever has cancelled the task must see it end so."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(ended_after(Deadlines(), 5))
    await asyncio.sleep(0)
    loop.call_at(loop.time() + 5, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_block_can_be_ended_early_and_afterwards_nothing_happens() -> None:
    deadline = Deadlines().within(60)
    loop = asyncio.get_running_loop()
    loop.call_later(2, deadline.end)
    with pytest.raises(TimeoutError), deadline:
        await hang()
    assert loop.time() == pytest.approx(2, abs=0.1)
    deadline.end()
    await asyncio.sleep(0.1)
