"""Schedules as they are declared: what can't be one says why."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from awakeables import App, Context, ObjectContext, Schedule, Service, SharedContext, VirtualObject, Workflow
from awakeables.errors import DeclarationError
from awakeables.handlers.invoking import LONGEST_OBJECT_KEY
from awakeables.handlers.schedule import key_at, schedule_from

DAILY = Schedule("0 6 * * *")
MINUTE = timedelta(minutes=1)


class Report(BaseModel):
    days: int = 1


async def report(ctx: Context) -> None: ...


async def report_of(ctx: Context, wanted: Report) -> None: ...


async def report_or_all(ctx: Context, wanted: Report = Report(days=7)) -> None: ...  # noqa: B008


async def take_bytes(ctx: Context, content: bytes) -> None: ...


async def clean(ctx: ObjectContext) -> None: ...


async def look(ctx: SharedContext) -> None: ...


def declared(schedule: Any, function: Any = report, name: str | None = None) -> Service:
    service = Service("reports")
    service.handler(name, schedule=schedule)(function)
    return service


def names(service: Service) -> list[str]:
    return list(App("shop", services=[service]).scheduled())


def test_h8_2_several_schedules_of_a_handler_are_numbered() -> None:
    assert names(declared(DAILY)) == ["reports.report"]
    several = (DAILY, Schedule.every(MINUTE), Schedule("0 7 * * *", name="late"))
    assert names(declared(several)) == ["reports.report", "reports.report.2", "late"]


def test_a_name_keeps_its_place_when_its_handler_is_renamed() -> None:
    for name in ("report", "write"):
        assert names(declared(Schedule("0 6 * * *", name="reports.daily"), name=name)) == ["reports.daily"]


def test_two_schedules_of_one_name_are_refused() -> None:
    service = Service("reports")
    service.handler("one", schedule=Schedule("0 6 * * *", name="same"))(report)
    service.handler("two", schedule=Schedule("0 7 * * *", name="same"))(report)
    with pytest.raises(DeclarationError, match=r"reports/two: the schedule 'same' is one of reports/one"):
        App("shop", services=[service])


def test_a_handler_without_a_schedule_has_none() -> None:
    service = Service("reports")
    service.handler()(report)
    assert service.handlers["report"].schedules == ()
    assert names(service) == []


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Schedule("* * * *"), "it has 4 fields, not 5: minute, hour, day of the month, month,"),
        (lambda: Schedule("0 0 6 * * *"), "it has 6 fields"),
        (lambda: Schedule("@daily"), "it has 1 fields"),
        (lambda: Schedule("61 * * * *"), "Bad minute"),
        (lambda: Schedule("0 0 30 2 *"), "Bad day-of-month"),
        (lambda: Schedule("0 0 * 2 MON#6"), "Bad day-of-week"),
        (lambda: Schedule(timedelta(minutes=5)), "use Schedule.every"),  # type: ignore[arg-type]
        (lambda: Schedule(None), "a cron expression is a string"),
        (lambda: Schedule("0 6 * * *", timezone="Berlin"), "there is no time zone 'Berlin'"),
        (lambda: Schedule("0 6 * * *", timezone="../Berlin"), "there is no time zone"),
        (lambda: Schedule("0 6 * * *", timezone=""), "there is no time zone"),
        (lambda: Schedule("0 6 * * *", timezone=1), "there is no time zone"),  # type: ignore[arg-type]
        (lambda: Schedule("0 6 * * *", interval=MINUTE), "it has a cron expression and an interval"),
        (lambda: Schedule("0 6 * * *", overlap="wait"), "overlap= is 'skip', 'queue' or 'allow', not 'wait'"),  # type: ignore[arg-type]
        (lambda: Schedule("0 6 * * *", missed="none"), "missed= is 'once', 'skip' or 'all', not 'none'"),  # type: ignore[arg-type]
        (lambda: Schedule("0 6 * * *", missed="all"), "missed='all' begins what was missed at once"),
        (lambda: Schedule("0 6 * * *", missed="all", overlap="queue"), "use overlap='allow'"),
        (lambda: Schedule("0 6 * * *", within=timedelta(0)), "within= is a positive timedelta"),
        (lambda: Schedule("0 6 * * *", within=60), "within= is a positive timedelta"),  # type: ignore[arg-type]
        (lambda: Schedule("0 6 * * *", name=""), "name= is a string that is not empty"),
        (lambda: Schedule("0 6 * * *", key=""), "key= is a string that is not empty"),
        (lambda: Schedule.every(60), "an interval is a timedelta"),  # type: ignore[arg-type]
        (lambda: Schedule.every(timedelta(seconds=1.0005)), "an interval has whole milliseconds"),
    ],
)  # fmt: skip
def test_what_can_not_be_a_schedule_says_why(make: Any, why: str) -> None:
    with pytest.raises(DeclarationError, match="^schedule .*" + why.replace("(", r"\(")):
        make()


@pytest.mark.parametrize("interval", [timedelta(milliseconds=999), timedelta(0), timedelta(seconds=-5)])
def test_h8_5_an_interval_below_a_second_is_refused(interval: timedelta) -> None:
    with pytest.raises(DeclarationError, match="at least a second"):
        Schedule.every(interval)


@pytest.mark.parametrize(
    ("function", "given", "why"),
    [
        (report, Report(), "reports/report takes no input, and was given one"),
        (report_of, None, "a body is required"),
        (report_of, {"days": "many"}, "does not fit"),
        (take_bytes, 7, "does not fit"),
    ],
)
def test_h8_7_an_input_that_does_not_fit_is_refused(function: Any, given: Any, why: str) -> None:
    with pytest.raises(DeclarationError, match=r"^handler reports/\w+: input= of its schedule: .*" + why):
        declared(Schedule("0 6 * * *", input=given), function)


@pytest.mark.parametrize(
    ("function", "given", "content"),
    [
        (report, None, None),
        (report_of, Report(days=2), b'{"days":2}'),
        (report_of, {"days": 2}, b'{"days":2}'),
        (report_or_all, None, None),
        (take_bytes, b"raw", b"raw"),
    ],
)
def test_an_input_is_kept_as_it_is_journaled(function: Any, given: Any, content: bytes | None) -> None:
    service = declared(Schedule("0 6 * * *", input=given), function)
    (found,) = App("shop", services=[service]).scheduled().values()
    assert found.content == content


def test_h8_4_a_handler_with_a_key_needs_one() -> None:
    carts, signups = VirtualObject("carts"), Workflow("signups")
    needed = "it is called for a key, so its schedule needs key="
    with pytest.raises(DeclarationError, match=needed):
        carts.handler(schedule=DAILY)(clean)
    with pytest.raises(DeclarationError, match=needed):
        carts.shared(schedule=DAILY)(look)
    carts.handler(schedule=Schedule("0 6 * * *", key="all"))(clean)
    carts.shared(schedule=Schedule("0 6 * * *", key="all"))(look)
    with pytest.raises(DeclarationError, match="its schedule needs key="):
        signups.run(schedule=DAILY)(clean)
    signups.run(schedule=Schedule("0 6 * * *", key="all"))(clean)
    with pytest.raises(DeclarationError, match="a service has no keys; leave out key= of its schedule"):
        declared(Schedule("0 6 * * *", key="all"))
    scheduled = App("shop", services=[carts, signups]).scheduled()
    keys = [each.key(1_790_000_000_000) for each in scheduled.values()]
    assert keys == ["all", "all", "all/2026-09-21T14:13:20Z"]


def test_a_key_has_room_for_the_tick() -> None:
    signups = Workflow("signups")
    longest = LONGEST_OBJECT_KEY - len(key_at("", 1))
    with pytest.raises(DeclarationError, match="1 to 1,024 bytes"):
        signups.run(schedule=Schedule("0 6 * * *", key="k" * (longest + 1)))(clean)
    signups.run(schedule=Schedule("0 6 * * *", key="k" * longest))(clean)


@pytest.mark.parametrize("given", ["0 6 * * *", (DAILY, "0 7 * * *"), {DAILY.cron: 1}, 5])
def test_what_is_no_schedule_is_refused(given: Any) -> None:
    with pytest.raises(DeclarationError, match=r"schedule= is a Schedule, or a tuple of them"):
        declared(given)


@pytest.mark.parametrize("name", ["a/b", "-a", "ä", "x" * 211])
def test_a_name_that_does_not_fit_into_a_path_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="a schedule's name has letters, digits"):
        declared(Schedule("0 6 * * *", name=name))


def test_no_service_can_be_called_schedules() -> None:
    with pytest.raises(DeclarationError, match="reserved"):
        Service("schedules")


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("0 6 * * 1-5", timezone="Europe/Berlin", overlap="queue", missed="skip", key="k"),
        Schedule.every(timedelta(seconds=1.5), overlap="allow", missed="all", within=timedelta(hours=3)),
    ],
)
def test_a_spec_is_read_as_it_was_written(schedule: Schedule) -> None:
    spec = schedule.spec(b"\x00input")
    assert schedule_from(spec) == schedule
    assert schedule.spec(None) != spec
    assert schedule.spec(b"\x00input") == spec


@pytest.mark.parametrize("spec", [b"", b"{}", b"[1]", DAILY.spec(None).replace(b"UTC", b"Mars")])
def test_a_spec_that_this_release_does_not_know_is_none(spec: bytes) -> None:
    assert schedule_from(spec) is None
