"""One timer of the event loop for many objects."""

from __future__ import annotations

import asyncio

import pytest

from awakeables.engine.timers import Timers, has_come


class Sleeper:
    """Notes when it was called."""

    def __init__(self, timers: Timers, called: list[str], name: str) -> None:
        self.wakes_at: float | None = None
        self._timers = timers
        self._called = called
        self._name = name

    def until(self, moment: float) -> None:
        self.wakes_at = moment
        self._timers.add(self, moment)

    def on_time(self) -> None:
        assert self.wakes_at is not None
        assert has_come(self.wakes_at)
        self._called.append(self._name)


async def test_each_is_called_when_its_time_has_come_unless_it_has_another() -> None:
    timers, called, now = Timers(), list[str](), asyncio.get_running_loop().time()
    late, early, put_off, given_up = (
        Sleeper(timers, called, name) for name in ("late", "early", "off", "up")
    )
    late.until(now + 3)
    early.until(now + 1)
    put_off.until(now + 2)
    put_off.until(now + 4)
    given_up.until(now + 1.5)
    given_up.wakes_at = None
    await asyncio.sleep(5)
    assert called == ["early", "late", "off"]


async def test_many_need_one_timer_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, made = asyncio.get_running_loop(), []
    call_at = loop.call_at

    def counted(when: float, *args: object, **context: object) -> asyncio.TimerHandle:
        made.append(when)
        return call_at(when, *args, **context)  # type: ignore[arg-type]

    timers, called, now = Timers(), list[str](), loop.time()
    with monkeypatch.context() as patched:
        patched.setattr(loop, "call_at", counted)
        for n in range(100):
            Sleeper(timers, called, str(n)).until(now + 1)
    await asyncio.sleep(2)
    assert len(called) == 100
    assert made == [now + 1]


async def test_after_clearing_nobody_is_called() -> None:
    timers, called = Timers(), list[str]()
    Sleeper(timers, called, "one").until(asyncio.get_running_loop().time() + 1)
    timers.clear()
    await asyncio.sleep(2)
    assert called == []
