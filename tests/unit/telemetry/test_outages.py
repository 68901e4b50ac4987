"""What fails again and again is logged when it begins, ever more rarely, and when it is over."""

from __future__ import annotations

from itertools import pairwise

from awakeables.telemetry.outages import FIRST_REMINDER_S, LONGEST_REMINDER_S, QUIET_S, Outages


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def test_case_r9_five_minutes_of_failures_are_a_handful_of_lines_with_their_count() -> None:
    clock = Clock()
    outages = Outages(clock)
    logged = []
    for _ in range(8445):
        failures = outages.failed("tasks")
        if failures is not None:
            logged.append((round(clock.s), failures))
        clock.s += 300 / 8445
    assert [at for at, _ in logged] == [0, 10, 30, 70, 150]
    assert [failures for _, failures in logged] == sorted({failures for _, failures in logged})
    clock.s += QUIET_S
    assert outages.succeeded("tasks") == 8445
    assert outages.succeeded("tasks") is None


def test_case_r9_each_topic_has_an_outage_of_its_own() -> None:
    outages = Outages(Clock())
    assert [outages.failed(topic) for topic in ("tasks", "mails", "tasks")] == [1, 1, None]


def test_case_r9_what_fails_now_and_then_is_one_outage() -> None:
    clock = Clock()
    outages = Outages(clock)
    lines = 0
    for _ in range(100):
        lines += outages.failed("tasks") is not None
        lines += outages.succeeded("tasks") is not None
        clock.s += FIRST_REMINDER_S / 10
    assert lines == 4
    clock.s += QUIET_S
    assert outages.succeeded("tasks") == 100
    assert outages.failed("tasks") == 1


def test_case_r9_reminders_come_at_least_every_ten_minutes() -> None:
    clock = Clock()
    outages = Outages(clock)
    logged = []
    while clock.s < 4 * 3600:
        if outages.failed("tasks") is not None:
            logged.append(clock.s)
        clock.s += 5
    assert max(later - at for at, later in pairwise(logged)) <= LONGEST_REMINDER_S + 5
