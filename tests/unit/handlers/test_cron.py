"""Ticks over changes of the clocks, against all minutes of some days, and over years."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from awakeables import Schedule

MINUTE = timedelta(minutes=1)
BERLIN, NEW_YORK, LORD_HOWE, HAVANA = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def ticks(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    def found() -> Iterator[datetime]:
        for tick_ms in schedule.after(round(after.timestamp() * 1000)):
            tick = datetime.fromtimestamp(tick_ms / 1000, UTC)
            if tick > until:
                return
            yield tick

    return list(found())


def on_the_wall(cron: str, zone: str, begin: str, days: int) -> list[str]:
    """The ticks of some days, as clocks show them, with the offset."""
    after = at(begin).replace(tzinfo=ZoneInfo(zone)) - MINUTE
    found = ticks(Schedule(cron, timezone=zone), after, after + timedelta(days=days))
    return [f"{tick.astimezone(ZoneInfo(zone)):%d %H:%M%z}" for tick in found]


@pytest.mark.parametrize(
    ("zone", "day", "cron", "expected"),
    [
        # Clocks go forward from 02:00 to 03:00 on the 29th.
        (BERLIN, "2026-03-28", "30 2 * * *", ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]),
        (BERLIN, "2026-03-28", "0 3 * * *", ["28 03:00+0100", "29 03:00+0200", "30 03:00+0200"]),
        # And back from 03:00 to 02:00 on the 25th.
        (BERLIN, "2026-10-24", "30 2 * * *", ["24 02:30+0200", "25 02:30+0200", "26 02:30+0100"]),
        (BERLIN, "2026-10-24", "0 3 * * *", ["24 03:00+0200", "25 03:00+0100", "26 03:00+0100"]),
        # From 02:00 to 03:00 on the 8th, from 02:00 to 01:00 on the 1st.
        (NEW_YORK, "2026-03-07", "0 2 * * *", ["07 02:00-0500", "08 03:00-0400", "09 02:00-0400"]),
        (NEW_YORK, "2026-10-31", "30 1 * * *", ["31 01:30-0400", "01 01:30-0400", "02 01:30-0500"]),
        # Half an hour: from 02:00 to 02:30 on the 4th, from 02:00 to 01:30 on the 5th.
        (LORD_HOWE, "2026-10-03", "15 2 * * *", ["03 02:15+1030", "04 02:30+1100", "05 02:15+1100"]),
        (LORD_HOWE, "2026-10-03", "30 2 * * *", ["03 02:30+1030", "04 02:30+1100", "05 02:30+1100"]),
        (LORD_HOWE, "2026-04-04", "45 1 * * *", ["04 01:45+1100", "05 01:45+1100", "06 01:45+1030"]),
        # What cronsim loses: at two o'clock there the clocks go back.
        (LORD_HOWE, "2026-04-05", "0 2,14 * * *", ["05 02:00+1030", "05 14:00+1030", "06 02:00+1030",
                                                   "06 14:00+1030", "07 02:00+1030", "07 14:00+1030"]),
    ],
)  # fmt: skip
def test_a_time_that_clocks_skip_fires_after_the_gap_and_one_that_comes_twice_once(
    zone: str, day: str, cron: str, expected: list[str]
) -> None:
    assert on_the_wall(cron, zone, day, 3) == expected


def test_several_times_in_one_gap_are_one_tick() -> None:
    assert on_the_wall("*/20 2 * * *", BERLIN, "2026-03-29", 1) == ["29 03:00+0200"]


def test_each_second_hour_is_a_time_on_the_wall() -> None:
    spring = on_the_wall("0 */2 * * *", BERLIN, "2026-03-29", 1)
    assert spring[:3] == ["29 00:00+0100", "29 03:00+0200", "29 04:00+0200"]
    autumn = on_the_wall("0 */2 * * *", BERLIN, "2026-10-25", 1)
    assert autumn[:3] == ["25 00:00+0200", "25 02:00+0200", "25 04:00+0100"]


@pytest.mark.parametrize("cron", ["* * * * *", "*/15 * * * *", "7 0-23 * * *"])
@pytest.mark.parametrize(
    ("zone", "day"),
    [
        (BERLIN, "2026-03-29"),
        (BERLIN, "2026-10-25"),
        (NEW_YORK, "2026-03-08"),
        (NEW_YORK, "2026-11-01"),
        (LORD_HOWE, "2026-10-04"),
        (LORD_HOWE, "2026-04-05"),
        (HAVANA, "2026-03-08"),
        (HAVANA, "2026-11-01"),
    ],
)
def test_what_fires_in_each_hour_fires_by_the_time_that_passes(zone: str, day: str, cron: str) -> None:
    """Against all minutes: each whose time on the wall matches."""
    begin = at(day).replace(tzinfo=UTC) - timedelta(days=1)
    until = begin + timedelta(days=3)
    matching = {
        (wall.minute, wall.hour) for wall in islice(CronSim(cron, at("2026-01-01")), 1440)
    }  # of a day
    expected, minute = [], begin
    while minute <= until:
        wall = minute.astimezone(ZoneInfo(zone))
        if (wall.minute, wall.hour) in matching:
            expected.append(minute)
        minute += MINUTE
    assert ticks(Schedule(cron, timezone=zone), begin - MINUTE, until) == expected


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE, HAVANA])
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/30 0-3 * * *", "0 */3 * * 6,7", "0 0 * * *"])
def test_each_time_on_the_wall_of_a_year_is_one_tick(zone: str, cron: str) -> None:
    begin, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    found = ticks(Schedule(cron, timezone=zone), begin, until)
    assert all(one < other for one, other in pairwise(found))
    shown = [tick.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for tick in found]
    assert len(set(shown)) == len(shown), "no time twice"
    wanted = set()
    for wall in CronSim(cron, begin.astimezone(ZoneInfo(zone)).replace(tzinfo=None)):
        if wall > until.astimezone(ZoneInfo(zone)).replace(tzinfo=None):
            break
        there = wall.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).astimezone(ZoneInfo(zone))
        if there.replace(tzinfo=None) == wall:
            wanted.add(wall)
    moved = set(shown) - wanted
    assert wanted <= set(shown), "none lost"
    assert len(moved) <= 1, "at most the end of the year's only gap, where it is no time of its own"


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/20 * * * *"])
@pytest.mark.parametrize("zone", [BERLIN, LORD_HOWE])
@pytest.mark.parametrize("month", [3, 4, 10])
def test_it_does_not_matter_from_where_one_looks(cron: str, zone: str, month: int) -> None:
    """A tick is computed from the one before, or from any instant after a pause."""
    schedule = Schedule(cron, timezone=zone)
    begin = datetime(2026, month, 1, tzinfo=UTC)
    all_ = ticks(schedule, begin, begin + timedelta(days=31))
    for seconds in range(0, 30 * 86400, 3001):
        after = begin + timedelta(seconds=seconds)
        later = all_[bisect_right(all_, after)]
        assert schedule.following(round(after.timestamp() * 1000)) == round(later.timestamp() * 1000)


def test_a_day_that_a_country_skips_has_no_tick_of_its_own() -> None:
    found = on_the_wall("0 12 * * *", "Pacific/Apia", "2011-12-29", 3)
    assert found == ["29 12:00-1000", "31 00:00+1400", "31 12:00+1400"]


def test_the_29th_of_february_comes_in_leap_years() -> None:
    found = islice(Schedule("0 6 29 2 *").after(1_790_000_000_000), 3)
    assert [datetime.fromtimestamp(tick / 1000, UTC).year for tick in found] == [2028, 2032, 2036]


def test_an_interval_does_not_drift_over_a_year() -> None:
    schedule = Schedule.every(timedelta(minutes=7))
    begin_ms = 1_790_000_000_123
    found = list(islice(schedule.after(begin_ms), 366 * 24 * 60 // 7))
    assert {later - one for one, later in pairwise(found)} == {420_000}
    assert all(tick % 420_000 == 0 for tick in found)
    by_steps = [schedule.following(begin_ms)]
    while len(by_steps) < 100:
        by_steps.append(schedule.following(by_steps[-1] + 41_000))  # however late the one before was
    assert by_steps == found[:100]


def test_a_tick_is_later_than_the_instant_that_it_follows() -> None:
    for schedule in (Schedule("0 6 * * *"), Schedule.every(timedelta(hours=1))):
        tick = schedule.following(1_790_000_000_000)
        assert schedule.following(tick - 1) == tick
        assert schedule.following(tick) > tick
