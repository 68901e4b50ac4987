"""`why` and `objects`: what they ask of the service, and what they make of its answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from awakeables.cli.timespans import Since, spoken
from awakeables.core.records import rfc3339
from awakeables.web import views
from awakeables.world import SystemClock
from unit.cli.conftest import Run, StubService

NOW_MS = 1_800_000_000_000
HOUR_MS, MINUTE_MS = 3_600_000, 60_000
HOLDER = "inv_101hf7yat0060rk4csm6mv3ee1s3zhr432"
CALLER, CALLEE, NEXT = (f"inv_1{letter * 33}" for letter in "abc")
ANSWER, OTHER, CALL = (f"prom_1{letter * 33}" for letter in "abc")
KEY = "GET /objects/carts/c-7"


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemClock, "now_ms", lambda _: NOW_MS)


def at(ms: int) -> str:
    """So long ago, or ahead."""
    return rfc3339(NOW_MS - ms)


def invocation(invocation_id: str, handler: str = "checkout", **fields: Any) -> views.InvocationView:
    usual: dict[str, Any] = {
        "id": invocation_id,
        "service": "carts",
        "handler": handler,
        "key": "c-7",
        "status": "suspended",
        "ended": None,
        "attempts": 0,
        "due": None,
        "cancelled": None,
        "pausing": None,
        "subscription": None,
        "version": 1,
        "failure": None,
        "reason": None,
        "build": None,
        "created": at(3 * HOUR_MS),
        "updated": at(2 * HOUR_MS),
    }
    return views.InvocationView(**usual | fields)


def wait(wait_id: str = ANSWER, **fields: Any) -> views.WaitView:
    usual: dict[str, Any] = {
        "id": wait_id,
        "type": "shop.Payment",
        "topic": None,
        "invocation": None,
        "promise": None,
        "created": at(3 * HOUR_MS),
        "deadline": at(-21 * HOUR_MS),
        "heartbeat_timeout_ms": None,
        "heartbeat": None,
    }
    return views.WaitView(**usual | fields)


def item(row: views.InvocationView, *waits: views.WaitView) -> views.WaitingInvocationView:
    return views.WaitingInvocationView(invocation=row, waits=[*waits], pause=None)


def status(
    *head: views.WaitingInvocationView,
    in_line: Sequence[views.InvocationView] = (),
    key: str = "c-7",
    **fields: Any,
) -> views.ObjectKeyInFullView:
    usual: dict[str, Any] = {
        "since": at(3 * HOUR_MS + 12 * MINUTE_MS) if head else None,
        "length": len(in_line) + bool(head),
        "paused": None,
    }
    return views.ObjectKeyInFullView(
        object="carts", key=key, head=[*head], in_line=[*in_line], acts=[], **usual | fields
    )


def answer(stub: StubService, what: str, view: views.View | Sequence[views.WaitingInvocationView]) -> None:
    shown = view if isinstance(view, views.View) else views.WhyView(items=[*view])
    stub.will_answer(what, msgspec.json.encode(shown))


# ── why ─────────────────────────────────────────────────────────────────────────────────────


def test_why_says_who_holds_a_key_what_for_who_waits_and_what_can_be_done(
    stub: StubService, run: Run
) -> None:
    queued = [invocation(NEXT, "add", status="queued")]
    queued += [invocation(CALLER, name, status="queued") for name in ("checkout", "add")]
    answer(stub, KEY, status(item(invocation(HOLDER), wait()), in_line=queued, length=42))
    told = run("why", "carts", "c-7")
    assert told.exit_code == 0
    assert told.stdout == (
        f"carts/c-7  held for 3 h 12 min by {HOLDER} (checkout), suspended\n"
        f"  waits for  {ANSWER}  Payment, asked 3 h ago, times out in 21 h\n"
        f"  behind it  41 calls, the next is {NEXT} (add), for 2 h\n"
        f"             of the first 3: 2 add, 1 checkout\n"
        f"  to go on   awakeables resolve {ANSWER} | awakeables cancel {HOLDER} | awakeables kill {HOLDER}\n"
        f"  to hold    awakeables objects pause carts c-7\n"
    )


def test_why_follows_an_invocation_along_calls_and_the_key_that_it_waits_for(
    stub: StubService, run: Run
) -> None:
    caller = invocation(CALLER, "fill", service="orders", key=None)
    called = wait(CALL, type="Any", invocation=CALLEE, deadline=None)
    queued = invocation(CALLEE, "add", status="queued")
    holder = item(invocation(HOLDER), wait(type=None, topic="payments", deadline=None))
    answer(stub, f"GET /invocations/{CALLER}/why", [item(caller, called), item(queued), holder])
    answer(stub, KEY, status(holder, in_line=[queued]))
    assert run("why", CALLER).stdout == (
        f"{CALLER}  orders/fill, suspended for 2 h\n"
        f"  waits for  {CALLEE}  which it called 3 h ago\n"
        f"  to go on   awakeables cancel {CALLER} | awakeables kill {CALLER}\n"
        "\n"
        f"{CALLEE}  carts/c-7/add, queued for 2 h\n"
        f"  waits for  its turn at carts/c-7\n"
        f"  to go on   awakeables cancel {CALLEE} | awakeables kill {CALLEE}\n"
        "\n"
        f"carts/c-7  held for 3 h 12 min by {HOLDER} (checkout), suspended\n"
        f"  waits for  {ANSWER}  an answer (topic payments), asked 3 h ago\n"
        f"  behind it  1 call, the next is {CALLEE} (add), for 2 h\n"
        f"  to go on   awakeables resolve {ANSWER} | awakeables cancel {HOLDER} | awakeables kill {HOLDER}\n"
        f"  to hold    awakeables objects pause carts c-7\n"
    )


def test_why_names_the_promise_that_is_waited_for_and_offers_no_answer(stub: StubService, run: Run) -> None:
    promised = wait(type=None, promise="verified", deadline=None)
    answer(stub, f"GET /invocations/{HOLDER}/why", [item(invocation(HOLDER), promised)])
    told = run("why", HOLDER)
    assert "waits for  promise 'verified', for 3 h: a handler of its workflow settles it\n" in told.stdout
    assert "awakeables resolve" not in told.stdout


def test_why_goes_on_behind_the_holder_of_a_key(stub: StubService, run: Run) -> None:
    called = wait(CALL, type="Any", invocation=CALLEE, deadline=None)
    callee = invocation(CALLEE, "ship", service="orders", key=None, status="running")
    answer(stub, KEY, status(item(invocation(HOLDER), called), item(callee)))
    blocks = run("why", "carts", "c-7").stdout.split("\n\n")
    assert blocks[0].startswith("carts/c-7  held")
    assert "behind it" not in blocks[0]
    assert blocks[1].startswith(f"{CALLEE}  orders/ship, running for 2 h\n  to go on")


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        (
            {"status": "paused", "reason": "paused, ValueError: no"},
            ["because    paused, ValueError: no", f"to go on   awakeables resume {HOLDER} | "],
        ),
        (
            {"status": "backing-off", "reason": "attempt 3 failed, x", "due": at(-10_000)},
            [
                "because    attempt 3 failed, x",
                "waits for  its next attempt, in 10 s",
                f"to go on   awakeables resume {HOLDER} | ",
            ],
        ),
        (
            {"due": at(-5 * MINUTE_MS)},
            ["waits for  a timer, in 5 min", f"to go on   awakeables cancel {HOLDER} | "],
        ),
        (
            {"status": "running", "pausing": at(5000)},
            ["paused     at its next wait, as asked 5 s ago", f"to go on   awakeables resume {HOLDER} | "],
        ),
        (
            {"status": "pending", "due": at(1000)},
            ["waits for  its start, due now", f"to go on   awakeables cancel {HOLDER} | "],
        ),
    ],
)
def test_why_says_why_an_invocation_failed_or_when_it_is_due(
    stub: StubService, run: Run, fields: dict[str, Any], lines: list[str]
) -> None:
    answer(stub, f"GET /invocations/{HOLDER}/why", [item(invocation(HOLDER, **fields))])
    [head, *told] = run("why", HOLDER).stdout.splitlines()
    assert head.startswith(f"{HOLDER}  carts/c-7/checkout, ")
    assert len(told) == len(lines)
    assert all(line.strip().startswith(start) for line, start in zip(told, lines, strict=True))


@pytest.mark.parametrize(
    ("heartbeat_timeout_ms", "heartbeat", "told"),
    [
        (30_000, at(12_000), "asked 3 h ago, last heartbeat 12 s ago, times out in 21 h"),
        (None, at(12_000), "asked 3 h ago, last heartbeat 12 s ago, times out in 21 h"),
        (30_000, None, "asked 3 h ago, no heartbeat yet, times out in 21 h"),
    ],
)
def test_why_says_when_the_worker_was_last_heard_of(
    stub: StubService, run: Run, heartbeat_timeout_ms: int | None, heartbeat: str | None, told: str
) -> None:
    watched = wait(heartbeat_timeout_ms=heartbeat_timeout_ms, heartbeat=heartbeat)
    answer(stub, f"GET /invocations/{HOLDER}/why", [item(invocation(HOLDER), watched)])
    assert f"waits for  {ANSWER}  Payment, {told}\n" in run("why", HOLDER).stdout


def test_why_lists_a_few_of_many_waits(stub: StubService, run: Run) -> None:
    waits = [wait(ANSWER, deadline=at(1000)), *(wait(OTHER) for _ in range(6))]
    answer(stub, f"GET /invocations/{HOLDER}/why", [item(invocation(HOLDER), *waits)])
    told = run("why", HOLDER).stdout
    assert f"  waits for  {ANSWER}  Payment, asked 3 h ago, its deadline has passed\n" in told
    assert told.count(OTHER) == 4
    assert "             and others: see --json\n" in told
    assert "  to go on   awakeables resolve ID | " in told


def test_why_says_that_a_key_is_paused(stub: StubService, run: Run) -> None:
    queued = [invocation(NEXT, "add", status="queued")]
    answer(stub, f"GET /invocations/{NEXT}/why", [item(queued[0])])
    answer(stub, KEY, status(in_line=queued, paused=at(2 * MINUTE_MS)))
    assert run("why", NEXT).stdout.partition("\n\n")[2] == (
        "carts/c-7  paused for 2 min\n"
        f"  in line    1 call, the next is {NEXT} (add), for 2 h\n"
        "  to resume  awakeables objects resume carts c-7\n"
    )
    answer(stub, KEY, status(item(invocation(HOLDER), wait()), paused=at(1000)))
    told = run("why", "carts", "c-7").stdout.splitlines()
    assert told[0].endswith(f"by {HOLDER} (checkout), suspended; paused for 1 s")
    assert told[-1] == "  to resume  awakeables objects resume carts c-7"


def test_why_says_when_nothing_waits(stub: StubService, run: Run) -> None:
    answer(stub, f"GET /invocations/{HOLDER}/why", [])
    told = run("why", HOLDER)
    assert (told.exit_code, told.stdout) == (0, f"{HOLDER} has ended; see `awakeables show {HOLDER}`\n")
    answer(stub, KEY, status())
    assert run("why", "carts", "c-7").stdout.startswith("carts/c-7  free: nothing holds it\n  to hold ")


def test_a_key_that_a_shell_would_take_apart_is_quoted(stub: StubService, run: Run) -> None:
    answer(stub, "GET /objects/carts/a%2Fb%20c", status(key="a/b c"))
    assert "awakeables objects pause carts 'a/b c'\n" in run("why", "carts", "a/b c").stdout
    answer(stub, "GET /objects/carts/-x", status(key="-x"))
    assert "awakeables objects pause carts -- -x\n" in run("why", "carts", "--", "-x").stdout


def test_why_needs_an_id_or_an_object_with_a_key(stub: StubService, run: Run) -> None:
    told = run("why", "carts")
    assert told.exit_code == 1
    assert told.stderr == (
        "error: 'carts' is not an invocation's ID (inv_1…); for a key of an object, give both: "
        "awakeables why OBJECT KEY\n"
    )
    assert stub.asked == []
    refusal = {"title": "Not found", "detail": "no object 'baskets'; there are: carts"}
    stub.will_answer("GET /objects/baskets/c-7", refusal, 404)
    told = run("why", "baskets", "c-7")
    assert (told.exit_code, told.stderr) == (1, "error: Not found: no object 'baskets'; there are: carts\n")


def test_what_comes_from_outside_can_not_steer_the_terminal(stub: StubService, run: Run) -> None:
    row = invocation(HOLDER, key="\x1b[2J", reason="no\r\nFORGED", status="paused")
    answer(stub, f"GET /invocations/{HOLDER}/why", [item(row, wait(topic="\x9b"))])
    told = run("why", HOLDER).stdout
    assert "carts/\\u001b[2J/checkout" in told
    assert "no\\r\\nFORGED" in told
    assert not {c for c in told if not c.isprintable()} - {"\n"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (11_520, "3 h 12 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
        (400 * 86_400, "400 d"),
    ],
)
def test_a_time_is_said_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


def test_what_is_still_to_come_is_not_past() -> None:
    since = Since(NOW_MS)
    assert (since.past(at(-1000)), since.left(at(-1500))) == ("0 s", "1 s")
    assert since.left(at(0)) is None


# ── objects ─────────────────────────────────────────────────────────────────────────────────


def test_keys_that_are_held_are_listed_from_where_one_stopped(stub: StubService, run: Run) -> None:
    rows = [
        views.ObjectKeyView(key="a b", head=HOLDER, since=at(0), length=42, paused=None),
        views.ObjectKeyView(key="c", head=None, since=None, length=0, paused=at(1)),
    ]
    page = views.ObjectKeysView(items=rows, next="c d")
    answer(stub, "GET /objects/carts?having=queue&limit=2&after=a", page)
    told = run("objects", "list", "carts", "--limit", "2", "--after", "a")
    assert told.exit_code == 0
    [head, first, second] = told.stdout.splitlines()
    assert head.split() == ["key", "length", "head", "since", "paused"]
    assert first.split() == ["a", "b", "42", HOLDER, at(0)]
    assert second.split() == ["c", "0", at(1)]
    assert told.stderr == "more: --after 'c d'\n"


def test_keys_that_have_state_are_listed(stub: StubService, run: Run) -> None:
    page = views.ObjectKeysView(items=[views.ObjectKeyView(key="c-7")], next=None)
    answer(stub, "GET /objects/carts?having=state&limit=50", page)
    assert run("objects", "list", "carts", "--having", "state").stdout.split() == ["key", "c-7"]
    answer(stub, "GET /objects/carts?having=queue&limit=50", views.ObjectKeysView(items=[], next=None))
    assert run("objects", "list", "carts").stderr == "no key is held or paused\n"
    assert run("objects", "list", "carts", "--having", "nothing").exit_code == 2
    assert len(stub.asked) == 2


def test_a_key_is_shown_as_json(stub: StubService, run: Run) -> None:
    answer(stub, "GET /objects/carts/a%2Fb", status(key="a/b"))
    told = run("objects", "show", "carts", "a/b")
    assert json.loads(told.stdout)["key"] == "a/b"


def test_a_key_is_paused_and_resumed_and_its_queue_is_told(stub: StubService, run: Run) -> None:
    queued = [invocation(NEXT, "add", status="queued")]
    answer(stub, f"{KEY.replace('GET', 'POST')}/pause", status(item(invocation(HOLDER)), in_line=queued))
    answer(stub, f"{KEY.replace('GET', 'POST')}/resume", status(in_line=queued * 2))
    assert run("objects", "pause", "carts", "c-7").stdout == (
        f"carts/c-7: paused; {HOLDER} (checkout) holds it; 1 call is in line\n"
    )
    assert run("objects", "resume", "carts", "c-7").stdout == "carts/c-7: resumed; 2 calls are in line\n"
    answer(stub, f"{KEY.replace('GET', 'POST')}/pause", status())
    assert run("objects", "pause", "carts", "c-7").stdout == "carts/c-7: paused\n"


def test_the_state_is_shown_by_name_as_it_was_written(stub: StubService, run: Run) -> None:
    entries = [
        views.StateEntryView(name="photo", value_base64=b"\xff", updated=at(0)),
        views.StateEntryView(name="total", value=msgspec.Raw(b"18446744073709551616.10"), updated=at(0)),
        views.StateEntryView(name="zero", value=msgspec.Raw(b"null"), updated=at(0)),
        views.StateEntryView(name="long", value=msgspec.Raw(b'"%s"' % (b"x" * 999)), updated=at(0)),
    ]
    what = f"{KEY}/state?limit=50"
    answer(stub, what, views.StateView(items=entries, next="zero"))
    told = run("objects", "state", "carts", "c-7")
    [_, *rows] = told.stdout.splitlines()
    assert [row.split()[2:] for row in rows[:3]] == [
        ["base64:", "/w=="],
        ["18446744073709551616.10"],
        ["null"],
    ]
    assert rows[3].endswith("x…")
    assert told.stderr == "more: --after zero\n"
    answer(stub, f"{what}&after=zero", views.StateView(items=[], next=None))
    assert run("objects", "state", "carts", "c-7", "--after", "zero").stderr == "carts/c-7 has no state\n"


def test_the_state_is_edited_with_the_values_as_they_were_written(stub: StubService, run: Run) -> None:
    answer(stub, f"{KEY.replace('GET', 'PATCH')}/state", status(paused=at(0)))
    edit = ("--set", "total=1.50", "--set", 'note/a={"b": "x=y"}', "--remove", "items")
    told = run("objects", "state", "carts", "c-7", *edit)
    assert told.stdout == "carts/c-7: 2 set, 1 removed\n"
    assert stub.bodies == [b'{"total":1.50,"note/a":{"b": "x=y"},"items":null}']


@pytest.mark.parametrize(
    ("words", "exit_code", "says"),
    [
        (("--set", "total"), 2, "'total' is not of the form NAME=JSON"),
        (("--set", "=1"), 2, "'=1' is not of the form NAME=JSON"),
        (("--set", "total=x"), 1, "--set total is not JSON"),
        (("--set", 'total=1,"b":2'), 1, "--set total is not JSON"),
        (("--set", "total=null"), 2, "null removes 'total': use --remove total"),
        (("--set", "total=1", "--remove", "total"), 2, "'total' is given twice"),
    ],
)
def test_an_edit_that_makes_no_sense_is_refused_before_anything_is_asked(
    stub: StubService, run: Run, words: tuple[str, ...], exit_code: int, says: str
) -> None:
    told = run("objects", "state", "carts", "c-7", *words)
    assert told.exit_code == exit_code
    assert says in " ".join(told.output.replace("│", " ").split())
    assert stub.asked == []


def test_an_edit_that_the_service_refuses_is_reported_in_one_line(stub: StubService, run: Run) -> None:
    refusal = {"title": "The current state does not allow this", "detail": "carts/c-7 is not paused"}
    stub.will_answer(f"{KEY.replace('GET', 'PATCH')}/state", refusal, 409)
    told = run("objects", "state", "carts", "c-7", "--set", "total=1")
    assert told.exit_code == 1
    assert told.stderr == "error: The current state does not allow this: carts/c-7 is not paused\n"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("why", "carts", "c-7"), KEY),
        (("why", HOLDER), f"GET /invocations/{HOLDER}/why"),
        (("objects", "list", "carts"), "GET /objects/carts?having=queue&limit=50"),
        (("objects", "pause", "carts", "c-7"), "POST /objects/carts/c-7/pause"),
        (("objects", "resume", "carts", "c-7"), "POST /objects/carts/c-7/resume"),
        (("objects", "state", "carts", "c-7"), f"{KEY}/state?limit=50"),
        (("objects", "state", "carts", "c-7", "--remove", "x"), "PATCH /objects/carts/c-7/state"),
    ],
)
def test_every_answer_can_be_had_as_json(
    words: tuple[str, ...], what: str, stub: StubService, run: Run
) -> None:
    stub.will_answer(what, {"items": []})
    assert json.loads(run(*words, "--json").stdout) == {"items": []}
