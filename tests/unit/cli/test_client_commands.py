"""What the commands ask of the service, and what they make of its answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from awakeables.cli import outbox
from awakeables.core.effects import EFFECT_STATES
from unit.cli.conftest import Run, StubService

INVOCATION = "inv_101hf7yat0060rk4csm6mv3ee1s3zhr432"
NEWER = "inv_101kdvdna00000g40r40m30e2092jbhymd"
AWAKEABLE = "prom_101kdvdna00000g40r40m30e2092jbhymd"
LETTERS = ("dlq_1a", "dlq_1b", "dlq_1c")
RECORDS = ("evt_1a", "dlq_1b")
STUCK = {
    "topic": "shop.completions",
    "partition": 3,
    "next": 17,
    "end": 90,
    "lag": 73,
    "epoch": 4,
    "problem": "the batch at 17 can't be opened: checksum",
}


def test_an_invocation_is_cancelled_and_its_status_printed(stub: StubService, run: Run) -> None:
    at = "2026-11-02T09:00:00.000Z"
    row = {"status": "suspended", "ended": None, "cancelled": at, "updated": at}
    stub.will_answer(f"POST /invocations/{INVOCATION}/cancel", row, 202)
    told = run("cancel", INVOCATION)
    assert told.exit_code == 0
    assert told.stdout == f"{INVOCATION}: suspended; its handler gets `Cancelled` at its next await\n"


def test_one_that_was_cancelled_before_says_when_and_how_it_can_be_ended(stub: StubService, run: Run) -> None:
    row = {"status": "running", "ended": None, "cancelled": "2026-11-02T09:00:00.000Z"}
    row["updated"] = "2026-11-02T09:05:00.000Z"
    stub.will_answer(f"POST /invocations/{INVOCATION}/cancel", row, 202)
    told = run("cancel", INVOCATION).stdout
    assert told.startswith(f"{INVOCATION}: running; it was cancelled at 2026-11-02T09:00:00.000Z already")
    assert told.endswith(f"`awakeables kill {INVOCATION}` ends it without its handler\n")


def test_one_that_is_cancelled_already_says_so(stub: StubService, run: Run) -> None:
    stub.will_answer(
        f"POST /invocations/{INVOCATION}/cancel", {"status": "completed", "ended": "cancelled"}, 202
    )
    assert run("cancel", INVOCATION).stdout == f"{INVOCATION}: cancelled\n"


def test_an_invocation_is_killed_and_its_status_printed(stub: StubService, run: Run) -> None:
    stub.will_answer(f"POST /invocations/{INVOCATION}/kill", {"status": "completed", "ended": "cancelled"})
    assert run("kill", INVOCATION).stdout == f"{INVOCATION}: killed\n"


@pytest.mark.parametrize(
    ("status", "soon"),
    [
        ("paused", ""),
        ("running", "; it is paused at its next wait"),
        ("queued", "; it is paused when its turn comes"),
    ],
)
def test_a_pause_says_whether_it_has_come_or_when_it_will(
    stub: StubService, run: Run, status: str, soon: str
) -> None:
    stub.will_answer(f"POST /invocations/{INVOCATION}/pause", {"status": status}, 202)
    told = run("pause", INVOCATION)
    assert told.exit_code == 0
    assert told.stdout == f"{INVOCATION}: {status}{soon}\n"


@pytest.mark.parametrize(("from_", "entry"), [((), 0), (("--from", "0"), 0), (("--from", "7"), 7)])
def test_a_restart_prints_the_new_id(stub: StubService, run: Run, from_: tuple[str, ...], entry: int) -> None:
    begun = {"invocation_id": NEWER, "created": True}
    stub.will_answer(f"POST /invocations/{INVOCATION}/restart?from_entry={entry}", begun, 202)
    told = run("restart", INVOCATION, *from_)
    assert told.exit_code == 0
    assert told.stdout == f"{INVOCATION}: now {NEWER}\n"
    assert json.loads(run("restart", INVOCATION, *from_, "--json").stdout) == begun


@pytest.mark.parametrize("wrong", ["-1", "abc", "1.5", ""])
def test_an_entry_that_is_no_number_is_a_usage_error_and_nothing_is_asked(
    stub: StubService, run: Run, wrong: str
) -> None:
    told = run("restart", INVOCATION, f"--from={wrong}")
    assert told.exit_code == 2
    assert "'--from'" in told.stderr
    assert stub.asked == []


def test_a_cut_that_is_not_possible_is_reported_with_one_that_is(stub: StubService, run: Run) -> None:
    detail = (
        f"invocation {INVOCATION} can't be restarted from entry 3: awakeable {AWAKEABLE} waits there for "
        "what comes later; the last entry that is possible is 2"
    )
    refusal = {"title": "The current state does not allow this", "detail": detail}
    stub.will_answer(f"POST /invocations/{INVOCATION}/restart?from_entry=3", refusal, 409)
    for more in ((), ("--json",)):
        told = run("restart", INVOCATION, "--from", "3", *more)
        assert told.exit_code == 1
        assert (told.stdout, told.stderr) == ("", f"error: {refusal['title']}: {detail}\n")


@pytest.mark.parametrize("words", ["pause", "pause --json", "restart", "restart --from 2"])
def test_an_id_that_is_unknown_is_an_error(stub: StubService, run: Run, words: str) -> None:
    told = run(*words.split(), INVOCATION)
    assert told.exit_code == 1
    assert (told.stdout, told.stderr) == ("", "error: There is no such thing here: nothing at all\n")
    assert len(stub.asked) == 1


def test_show_prints_what_was_restarted_as_what_and_that_a_pause_is_to_come(
    stub: StubService, run: Run
) -> None:
    acts = [{"act": "pause", "by": "ann", "at": "now"}, {"act": "restart", "by": "ann", "into": NEWER}]
    shown = {"id": INVOCATION, "pausing": "now", "restart_of": None, "acts": acts}
    stub.will_answer(f"GET /invocations/{INVOCATION}", shown)
    stub.will_answer(f"GET /invocations/{NEWER}", shown | {"id": NEWER, "restart_of": INVOCATION})
    told = run("show", INVOCATION)
    assert json.loads(told.stdout) == shown
    assert f'"into": "{NEWER}"' in told.stdout
    assert f'"restart_of": "{INVOCATION}"' in run("show", NEWER).stdout


def test_a_refusal_is_reported_in_one_line(stub: StubService, run: Run) -> None:
    refusal = {"title": "The state does not allow this", "detail": "it has [ended]"}
    stub.will_answer(f"POST /invocations/{INVOCATION}/cancel", refusal, 409)
    told = run("cancel", INVOCATION)
    assert told.exit_code == 1
    assert told.stderr == "error: The state does not allow this: it has [ended]\n"


def test_an_id_that_was_pasted_wrongly_stays_one_segment_of_the_path(stub: StubService, run: Run) -> None:
    assert run("cancel", "inv_1/../x y").exit_code == 1
    assert stub.asked == ["POST /invocations/inv_1%2F..%2Fx%20y/cancel"]


@pytest.mark.parametrize("pasted", ["foo", "dlq_1a", ""])
def test_the_error_for_an_id_of_neither_kind_names_both(stub: StubService, run: Run, pasted: str) -> None:
    told = run("show", pasted)
    assert told.exit_code == 1
    assert told.stderr == (
        f"error: {pasted!r} is neither an awakeable's ID (prom_1…) nor an invocation's (inv_1…)\n"
    )
    assert stub.asked == []


def test_numbers_are_shown_as_they_are_written(stub: StubService, run: Run) -> None:
    stub.will_answer(f"GET /invocations/{INVOCATION}", b'{"a":18446744073709551616,"b":0.1000,"c":1e400}')
    assert run("show", INVOCATION).stdout == (
        '{\n  "a": 18446744073709551616,\n  "b": 0.1000,\n  "c": 1e400\n}\n'
    )


def test_a_journal_is_printed_byte_for_byte(stub: StubService, run: Run) -> None:
    stored = '{"format":1,"entries":[\n{"k":"input","value":{ "a": 1.50, "b":"\u202e" }}]}'.encode()
    stub.will_answer(f"GET /invocations/{INVOCATION}/journal", stored)
    assert run("show", INVOCATION, "--journal").stdout_bytes == stored + b"\n"
    refused = run("show", AWAKEABLE, "--journal")
    assert refused.exit_code == 2
    assert "only invocations have a journal" in refused.stderr
    assert len(stub.asked) == 1


@pytest.mark.parametrize(("state", "hint"), [("pending", True), ("resolved", False)])
def test_case_w14_show_says_that_the_task_is_a_dead_letter_and_what_to_do(
    stub: StubService, run: Run, state: str, hint: bool
) -> None:
    dead = {"id": "dlq_1a", "code": "invalid", "reason": "no order", "worker": "packer", "at": "now"}
    stub.will_answer(f"GET /awakeables/{AWAKEABLE}", {"state": state, "dead_task": dead})
    told = run("show", AWAKEABLE)
    assert "dead_task" in told.stdout
    assert told.stderr == hint * (
        "its task is a dead letter of worker 'packer' (invalid: no order)\n"
        "fix the worker, then run `awakeables dead-letters resend dlq_1a`\n"
    )


def test_dead_letters_are_listed_from_where_one_stopped(stub: StubService, run: Run) -> None:
    letter = {"id": LETTERS[0], "code": "unknown", "topic": "t", "partition": 0, "offset": 7, "reason": "no"}
    stub.will_answer("GET /dead-letters?limit=50&before=dlq_1z", {"items": [letter]})
    told = run("dead-letters", "list", "--before", "dlq_1z")
    assert told.exit_code == 0
    assert "unknown" in told.stdout


def test_a_dead_letter_that_can_not_be_resent_keeps_no_other_back(stub: StubService, run: Run) -> None:
    for letter in (LETTERS[0], LETTERS[2]):
        resent = {"id": letter, "event_id": "evt_1", "topic": "shop.completions"}
        stub.will_answer(f"POST /dead-letters/{letter}/resend", resent, 202)
    refusal = {"title": "The state does not allow this", "detail": "its value was not kept"}
    stub.will_answer(f"POST /dead-letters/{LETTERS[1]}/resend", refusal, 409)
    told = run("dead-letters", "resend", *LETTERS)
    assert told.exit_code == 1
    assert told.stdout.splitlines() == [
        "dlq_1a: queued for shop.completions",
        "dlq_1c: queued for shop.completions",
    ]
    assert told.stderr == "dlq_1b: The state does not allow this: its value was not kept\n"


def test_records_that_kafka_refused_are_listed_with_why(stub: StubService, run: Run) -> None:
    record = {"id": RECORDS[0], "topic": "invoices", "created": "2026", "reason": "too [large]"}
    stub.will_answer("GET /outbox?state=failed&limit=50&before=evt_1z", {"items": [record]})
    told = run("outbox", "list", "--before", "evt_1z")
    assert told.exit_code == 0
    assert told.stdout.splitlines()[1].split() == ["evt_1a", "invoices", "2026", "too", "[large]"]


def test_records_that_wait_for_kafka_are_listed_by_their_state(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /outbox?state=unsent&limit=50", {"items": []})
    assert run("outbox", "list", "--state", "unsent").stderr == "no unsent records\n"
    assert run("outbox", "list", "--state", "sent").exit_code == 2
    assert len(stub.asked) == 1


def test_the_states_of_the_outbox_are_those_that_there_are() -> None:
    assert {state.value for state in outbox.OutboxState} == set(EFFECT_STATES)


def test_a_record_is_shown_as_json(stub: StubService, run: Run) -> None:
    stub.will_answer(f"GET /outbox/{RECORDS[1]}", b'{"id":"dlq_1b"}')
    assert run("outbox", "show", RECORDS[1]).stdout == '{\n  "id": "dlq_1b"\n}\n'


def test_a_record_that_can_not_be_sent_again_keeps_no_other_back(stub: StubService, run: Run) -> None:
    refusal = {"title": "The state does not allow this", "detail": "it is on its way already"}
    stub.will_answer(f"POST /outbox/{RECORDS[0]}/resend", refusal, 409)
    stub.will_answer(f"POST /outbox/{RECORDS[1]}/resend", {"id": RECORDS[1], "topic": "invoices"}, 202)
    told = run("outbox", "resend", *RECORDS)
    assert told.exit_code == 1
    assert told.stdout == "dlq_1b: queued for invoices\n"
    assert told.stderr == "evt_1a: The state does not allow this: it is on its way already\n"


def test_offsets_are_shown_with_what_is_wrong(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /offsets", {"items": [STUCK]})
    [_, row] = run("offsets", "show").stdout.splitlines()
    assert row.split()[:6] == ["shop.completions", "3", "17", "90", "73", "4"]
    assert row.endswith("the batch at 17 can't be opened: checksum")


def test_a_skip_is_asked_about_first_and_dropped_without_a_yes(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /offsets", {"items": [STUCK]})
    told = run("offsets", "skip", "3", said="n\n")
    assert told.exit_code == 1
    assert "is at 17 of 90: the batch at 17 can't be opened" in told.stdout
    assert stub.asked == ["GET /offsets"]


def test_a_skip_without_a_terminal_to_ask_at_is_dropped(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /offsets", {"items": [STUCK]})
    assert run("offsets", "skip", "3").exit_code == 1
    assert stub.asked == ["GET /offsets"]


@pytest.mark.parametrize(("to", "query"), [((), ""), (("--to", "20"), "?to=20")])
def test_a_skip_goes_behind_the_batch_or_to_the_given_offset(
    to: tuple[str, ...], query: str, stub: StubService, run: Run
) -> None:
    stub.will_answer(f"POST /offsets/3/skip{query}", STUCK | {"next": 20, "problem": None})
    told = run("offsets", "skip", "3", *to, "--yes")
    assert told.exit_code == 0
    assert told.stdout == "partition 3 continues at 20\n"


def test_the_error_for_a_missing_partition_lists_those_that_exist(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /offsets", {"items": [STUCK]})
    told = run("offsets", "skip", "4")
    assert told.exit_code == 1
    assert told.stderr == "error: there is no partition 4; this service reads: 3\n"


def test_an_invocation_is_deleted_once_that_was_confirmed(stub: StubService, run: Run) -> None:
    told = run("purge", INVOCATION, said="n\n")
    assert (told.exit_code, stub.asked) == (1, [])
    stub.will_answer(f"POST /invocations/{INVOCATION}/purge", {"count": 1})
    assert run("purge", INVOCATION, "--yes").stdout == f"{INVOCATION}: deleted\n"


SUBSCRIBED = {"partition": 0, "next": 3, "end": 9, "lag": 6, "problem": None, "waits": None}
SUBSCRIPTION = {
    "name": "orders.take",
    "topic": "new-orders",
    "handler": "orders/take",
    "paused": None,
    "open": 1,
    "max_open": 10,
    "problems": [],
    "partitions": [SUBSCRIBED, SUBSCRIBED | {"partition": 1, "waits": "10 of its invocations are open"}],
}


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ({}, ["ok", "10 of its invocations are open"]),
        ({"paused": "2026-11-30T12:00:00Z"}, ["paused since 2026-11-30T12:00:00Z"] * 2),
        ({"handler": None, "max_open": None}, ["no handler has it any more"] * 2),
        ({"problems": ["there is no topic"], "partitions": []}, ["there is no topic"]),
    ],
)
def test_subscriptions_are_listed_with_what_they_wait_for(
    stub: StubService, run: Run, changes: dict[str, Any], states: list[str]
) -> None:
    stub.will_answer("GET /subscriptions", {"items": [SUBSCRIPTION | changes]})
    [_, *rows] = run("subscriptions", "list", "--wide").stdout.splitlines()
    assert [row.startswith("orders.take") for row in rows] == [True] * len(states)
    assert all(row.endswith(state) for row, state in zip(rows, states, strict=True))


FUNCTION = {
    "service": "orders",
    "url": "http://127.0.0.1:8090",
    "build": "2026.12",
    "handlers": ["orders/fulfil", "orders/fulfil@2"],
    "requests": 3,
    "problem": None,
}


def test_functions_are_listed_with_why_they_get_no_requests(stub: StubService, run: Run) -> None:
    for changes, state in (({}, "ok"), ({"problem": "it can't be reached"}, "it can't be reached")):
        stub.will_answer("GET /functions", {"items": [FUNCTION | changes]})
        [_, row] = run("functions", "list", "--wide").stdout.splitlines()
        assert "fulfil, fulfil@2" in row
        assert row.endswith(state)
    stub.will_answer("GET /functions", {"items": []})
    assert run("functions", "list").stderr == "the app has no remote services\n"


def test_a_function_is_read_again(stub: StubService, run: Run) -> None:
    stub.will_answer("POST /functions/orders/refresh", FUNCTION)
    assert run("functions", "refresh", "orders").stdout == "orders: it has fulfil, fulfil@2\n"


def test_an_app_without_subscriptions_says_so(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /subscriptions", {"items": []})
    assert run("subscriptions", "list").stderr == "the app has no subscriptions\n"


def test_a_subscription_is_paused_and_resumed(stub: StubService, run: Run) -> None:
    for act in ("pause", "resume"):
        stub.will_answer(f"POST /subscriptions/orders.take/{act}", SUBSCRIPTION)
        told = run("subscriptions", act, "orders.take")
        assert told.stdout == f"orders.take: {act}d; 1 of its invocations is open\n"


def test_a_move_is_asked_about_first_and_dropped_without_a_yes(stub: StubService, run: Run) -> None:
    told = run("subscriptions", "seek", "orders.take", "--to", "earliest", said="n\n")
    assert (told.exit_code, stub.asked) == (1, [])
    assert "Move orders.take to earliest?" in told.stderr


def test_a_move_says_what_is_read_again_or_passed_over(stub: StubService, run: Run) -> None:
    moves = [{"partition": 0, "before": 9, "next": 3}, {"partition": 1, "before": 0, "next": 1200}]
    stub.will_answer("POST /subscriptions/orders.take/seek?to=latest&partition=0", {"items": moves})
    seek = ("subscriptions", "seek", "orders.take", "--to", "latest", "--partition", "0", "--yes")
    assert run(*seek).stdout == (
        "partition 0: from 9 to 3; 6 offsets are read again\n"
        "partition 1: from 0 to 1200; 1,200 offsets are passed over\n"
    )
    stub.will_answer("POST /subscriptions/orders.take/seek?to=latest&partition=0", {"items": []})
    assert run(*seek).stdout == "orders.take is there already\n"


SCHEDULE: dict[str, Any] = {
    "name": "reports.daily",
    "handler": "reports/daily",
    "cron": "0 6 * * 1-5",
    "timezone": "Europe/Berlin",
    "interval_seconds": None,
    "overlap": "queue",
    "missed": "once",
    "is_declared": True,
    "paused": None,
    "next": ["2026-11-30T05:00:00.000Z", "2026-12-01T05:00:00.000Z", "2026-12-02T05:00:00.000Z"],
    "last_invocation": "inv_1",
    "last_status": "completed",
    "queued": None,
    "is_blocked": False,
}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ok"),
        ({"last_invocation": None, "last_status": None}, "ok"),
        ({"last_status": "suspended"}, "the last is suspended"),
        ({"paused": "2026-11-29T12:00:00.000Z"}, "paused since 2026-11-29T12:00:00.000Z"),
        ({"is_declared": False}, "the code of this instance does not declare it like this"),
        ({"last_status": "paused", "is_blocked": True}, "blocked: its last invocation is paused"),
        (
            {"last_status": "running", "queued": "2026-11-30T05:00:00.000Z"},
            "2026-11-30T05:00:00.000Z waits for the last invocation, which is running",
        ),
    ],
)
def test_schedules_are_listed_with_their_state(
    stub: StubService, run: Run, changes: dict[str, Any], state: str
) -> None:
    stub.will_answer("GET /schedules", {"items": [SCHEDULE | changes]})
    [title, row] = run("schedules", "list", "--wide").stdout.splitlines()
    assert title.split() == ["schedule", "when", "handler", "next", "then", "last", "invocation", "state"]
    assert row.startswith("reports.daily  0 6 * * 1-5 (Europe/Berlin)  reports/daily  ")
    assert row.endswith(f"  {state}")
    assert ("2026-12-02T05:00:00.000Z" in row) == ("paused" not in changes)


def test_an_interval_is_listed_in_seconds(stub: StubService, run: Run) -> None:
    every = SCHEDULE | {"cron": None, "timezone": None, "interval_seconds": 90.0}
    stub.will_answer("GET /schedules", {"items": [every]})
    assert "  every 90 s  " in run("schedules", "list", "--wide").stdout
    stub.will_answer("GET /schedules", {"items": [every | {"interval_seconds": None}]})
    assert run("schedules", "list", "--wide").exit_code == 0


def test_an_app_without_schedules_says_so(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /schedules", {"items": []})
    assert run("schedules", "list").stderr == "the app has no schedules\n"


def test_a_schedule_is_paused_resumed_and_triggered(stub: StubService, run: Run) -> None:
    path = "POST /schedules/reports.daily"
    stub.will_answer(f"{path}/pause", SCHEDULE)
    assert run("schedules", "pause", "reports.daily").stdout == "reports.daily: paused\n"
    stub.will_answer(f"{path}/resume", SCHEDULE)
    resumed = "reports.daily: resumed; next 2026-11-30T05:00:00.000Z\n"
    assert run("schedules", "resume", "reports.daily").stdout == resumed
    stub.will_answer(f"{path}/trigger", {"invocation_id": "inv_1"})
    assert run("schedules", "trigger", "reports.daily").stdout == "reports.daily: began inv_1\n"
    stub.will_answer(f"{path}/trigger", {"invocation_id": None})
    waits = "reports.daily: begins when its last invocation has ended\n"
    assert run("schedules", "trigger", "reports.daily").stdout == waits


def test_the_token_is_sent_and_never_shown(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /offsets", {"items": []})
    run("offsets", "show", AWAKEABLES_TOKEN="s3cret")
    assert stub.credentials == ["Bearer s3cret"]
    told = run("offsets", "show", AWAKEABLES_TOKEN="two s3crets")
    assert told.exit_code == 1
    assert "AWAKEABLES_TOKEN has a space" in told.stderr
    assert "s3cret" not in told.output


def test_the_error_for_a_refused_request_names_the_setting_that_helps(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /offsets", {"title": "No token", "detail": "who are you"}, 401)
    assert run("offsets", "show").stderr.endswith(" requires a token: set AWAKEABLES_TOKEN\n")
    told = run("offsets", "show", AWAKEABLES_TOKEN="s3cret")
    assert told.stderr.endswith(" does not accept the token in AWAKEABLES_TOKEN: it may have been revoked\n")


@pytest.mark.parametrize(
    ("what", "state"), [("awakeables", "paused"), ("invocations", "resolved"), ("invocations", "foo")]
)
def test_a_state_that_there_is_not_is_refused_with_those_that_there_are(
    stub: StubService, run: Run, what: str, state: str
) -> None:
    told = run("list", what, "--state", state)
    assert told.exit_code == 2
    first = {"awakeables": "pending", "invocations": "queued"}[what]
    assert f"{state!r} is not one of {first}, " in told.output
    assert stub.asked == []


def test_another_program_at_the_address_is_distinguished_from_the_service(
    stub: StubService, run: Run
) -> None:
    stub.will_answer("GET /offsets", b"<html>hello</html>")
    told = run("offsets", "show")
    assert told.exit_code == 1
    assert "is not this service (HTTP 200): '<html>hello</html>'" in told.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("cancel", INVOCATION),
        ("pause", INVOCATION),
        ("resume", INVOCATION),
        ("restart", INVOCATION),
        ("dead-letters", "list"),
        ("outbox", "list"),
        ("offsets", "show"),
    ],
)
def test_every_answer_can_be_had_as_json(words: tuple[str, ...], stub: StubService, run: Run) -> None:
    document = {"items": [], "status": "suspended"}
    for what in (
        f"POST /invocations/{INVOCATION}/cancel",
        f"POST /invocations/{INVOCATION}/pause",
        f"POST /invocations/{INVOCATION}/resume",
        f"POST /invocations/{INVOCATION}/restart?from_entry=0",
        "GET /dead-letters?limit=50",
        "GET /outbox?state=failed&limit=50",
        "GET /offsets",
    ):
        stub.will_answer(what, document)
    assert json.loads(run(*words, "--json").stdout) == document


@pytest.mark.parametrize("command", ["topics check", "topics create", "dev"])
def test_what_no_topic_can_be_called_is_refused_before_kafka_is_asked(run: Run, command: str) -> None:
    told = run(*command.split(), "examples.shop:app", "--task-topic", "a b", "--kafka", "127.0.0.1:1")
    assert told.exit_code == 2
    assert "'a b' can't be a task topic" in told.output.replace("\n│ ", "")


@pytest.mark.parametrize("command", ["topics check", "topics create", "dev"])
def test_case_w2_a_task_topic_without_room_for_its_dead_letters_is_refused(run: Run, command: str) -> None:
    longest = "t" * 245
    told = run(*command.split(), "examples.shop:app", "--task-topic", f"{longest}t", "--kafka", "127.0.0.1:1")
    assert told.exit_code == 2
    assert "1 to 245" in told.output


NASTY = "no\r\nFORGED\x1b[2J\x9b\u202e"
SHOWN = r"no\r\nFORGED\u001b[2J\u009b\u202e"


def test_case_o11_what_the_service_hands_on_can_not_steer_the_terminal(stub: StubService, run: Run) -> None:
    row = {"id": LETTERS[0], "code": NASTY, "topic": NASTY, "partition": 0, "offset": 7, "reason": NASTY}
    stub.will_answer("GET /dead-letters?limit=50", {"items": [row]})
    stub.will_answer(f"GET /invocations/{INVOCATION}", json.dumps({"a": NASTY}, ensure_ascii=False).encode())
    refusal = {"title": NASTY, "detail": NASTY}
    stub.will_answer(f"POST /invocations/{INVOCATION}/cancel", refusal, 409)
    stub.will_answer(f"POST /dead-letters/{LETTERS[0]}/resend", {"topic": NASTY}, 202)
    listed = run("dead-letters", "list").stdout
    assert listed.count(SHOWN) == 3
    shown = run("show", INVOCATION).stdout
    assert json.loads(shown) == {"a": NASTY}
    failed = run("cancel", INVOCATION).stderr
    assert failed == f"error: {SHOWN}: {SHOWN}\n"
    resent = run("dead-letters", "resend", LETTERS[0]).stdout
    assert resent == f"{LETTERS[0]}: queued for {SHOWN}\n"
    for text in (listed, shown, failed, resent):
        assert not {c for c in text if not c.isprintable()} - {"\n"}


def letters(count: int) -> list[dict[str, object]]:
    return [
        {
            "id": f"dlq_1{number:034}",
            "code": "invalid",
            "topic": "shop.completions",
            "partition": number,
            "offset": 10**9 + number,
            "at": "2026-11-29T20:05:46.123Z",
            "resent": 0,
            "reason": f"the value does not fit awakeable {INVOCATION}: expected an integer at $.weight",
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("columns", [40, 80, 100, 120, 160])
def test_case_o8_a_table_fits_the_terminal_and_shows_ids_and_reasons_whole(
    columns: int, stub: StubService, run: Run
) -> None:
    items = letters(3)
    stub.will_answer("GET /dead-letters?limit=50", {"items": items})
    told = run("dead-letters", "list", COLUMNS=str(columns))
    lines = told.stdout.splitlines()
    assert max(map(len, lines)) <= max(columns, len(f"{items[0]['id']}  invalid  shop.completions"))
    text = " ".join(told.stdout.split())
    for item in items:
        assert any(line.startswith(str(item["id"])) for line in lines)
        assert str(item["reason"]) in text
    if columns == 80:
        assert lines[0].split() == ["id", "code", "topic", "partition"]
        assert told.stderr == "columns left out: resent, at, offset; --wide or --json shows all\n"


def test_case_o8_wide_and_a_pipe_have_every_column_on_one_line(stub: StubService, run: Run) -> None:
    items = letters(3)
    stub.will_answer("GET /dead-letters?limit=50", {"items": items})
    for told in (run("dead-letters", "list", "--wide", COLUMNS="80"), run("dead-letters", "list")):
        head, *rows = told.stdout.splitlines()
        assert head.split() == ["id", "code", "topic", "partition", "offset", "at", "resent", "reason"]
        assert [row.split()[0] for row in rows] == [item["id"] for item in items]
        assert all(row.endswith(str(item["reason"])) for row, item in zip(rows, items, strict=True))
        assert told.stderr == ""


@pytest.mark.parametrize("words", ["list", "list invocations", "dead-letters list", "outbox list"])
def test_case_o8_a_list_that_goes_on_says_how(words: str, stub: StubService, run: Run) -> None:
    name = {"list": "awakeables", "list invocations": "invocations"}.get(words, words.removesuffix(" list"))
    query = "state=failed&limit=50" if name == "outbox" else "limit=50"
    page = {"items": letters(1), "next": AWAKEABLE}
    stub.will_answer(f"GET /{name}?{query}", page)
    assert run(*words.split()).stderr == f"more: --before {AWAKEABLE}\n"
    stub.will_answer(f"GET /{name}?{query}", page | {"next": None})
    assert run(*words.split()).stderr == ""


def test_case_o8_columns_without_anything_in_them_are_left_out_first(stub: StubService, run: Run) -> None:
    row = {"id": INVOCATION, "state": "pending", "created": "2026-11-29T20:05:46.123Z", "deadline": None}
    stub.will_answer("GET /awakeables?limit=50", {"items": [row | {"invocation": INVOCATION}]})
    told = run("list", COLUMNS="120")
    assert told.stdout.splitlines()[0].split() == ["id", "state", "created", "invocation"]
    assert told.stderr == ""


def test_case_o8_an_invocation_is_listed_with_why_it_is_paused(stub: StubService, run: Run) -> None:
    row = {
        "id": INVOCATION,
        "status": "paused",
        "service": "carts",
        "key": "c-7",
        "handler": "fulfil",
        "reason": "paused, ValueError: no such parcel",
    }
    stub.will_answer("GET /invocations?limit=50", {"items": [row]})
    told = run("list", "invocations", COLUMNS="80").stdout
    assert told.splitlines()[1].split() == [INVOCATION, "paused", "carts", "c-7", "fulfil"]
    assert told.splitlines()[-1].strip() == "paused, ValueError: no such parcel"


def test_case_u7_invocations_are_listed_by_their_idempotency_key(stub: StubService, run: Run) -> None:
    row = {"id": INVOCATION, "status": "running", "service": "orders", "handler": "pay", "failure": None}
    stub.will_answer("GET /invocations?limit=50&idempotency_key=a%2Fb+c", {"items": [row]})
    told = run("list", "invocations", "--idempotency-key", "a/b c")
    assert told.stdout.splitlines()[1].startswith(INVOCATION)
    refused = run("list", "--idempotency-key", "k")
    assert refused.exit_code == 2
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("--service orders --state paused", "status=paused&service=orders"),
        ("--handler orders/pay --state open", "status=open&service=orders&handler=pay"),
        ("--service orders --handler pay", "service=orders&handler=pay"),
        ("--handler pay --idempotency-key k", "handler=pay&idempotency_key=k"),
        ("--subscription orders.pay --state open", "status=open&subscription=orders.pay"),
        ("--topic new-orders --before X", "before=X&topic=new-orders"),
    ],
)
def test_invocations_are_listed_by_what_they_have_in_common(
    stub: StubService, run: Run, words: str, asked: str
) -> None:
    row = {"id": INVOCATION, "status": "pending", "service": "orders", "handler": "pay"}
    stub.will_answer(f"GET /invocations?limit=50&{asked}", {"items": [row | {"subscription": "orders.pay"}]})
    told = run("list", "invocations", *words.split(), COLUMNS="120")
    titles, cells = told.stdout.splitlines()
    assert cells.split() == [INVOCATION, "pending", "orders", "pay", "orders.pay"]
    assert titles.index("subscription") == cells.index("orders.pay")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("invocations --handler pay", "'pay': give SERVICE/HANDLER, or HANDLER and --service"),
        ("invocations --handler orders/pay --service orders", "or HANDLER and --service"),
        ("invocations --handler orders/c-7/pay", "give SERVICE/HANDLER"),
        ("invocations --handler orders/", "give SERVICE/HANDLER"),
        ("invocations --handler /pay", "give SERVICE/HANDLER"),
        ("invocations --key c-7", "give --idempotency-key, too"),
        ("invocations --state resolved", "completed, open"),
        ("awakeables --state open", "'open' is not one of"),
        ("awakeables --service orders", "awakeables have none; list invocations"),
        ("awakeables --subscription orders.pay", "awakeables have none; list invocations"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused_before_anything_is_asked(
    stub: StubService, run: Run, words: str, why: str
) -> None:
    told = run("list", *words.split())
    assert told.exit_code == 2
    assert why in " ".join(told.stderr.replace("│", " ").split())
    assert stub.asked == []


def test_a_wrong_name_is_reported_with_those_that_there_are(stub: StubService, run: Run) -> None:
    detail = "no subscription 'x'; there are: orders.pay"
    stub.will_answer("GET /invocations?limit=50&subscription=x", {"detail": detail}, status=404)
    told = run("list", "invocations", "--subscription", "x")
    assert (told.exit_code, told.stdout) == (1, "")
    assert detail in told.stderr


def test_an_age_is_read_before_anything_is_asked(stub: StubService, run: Run) -> None:
    told = run("dead-letters", "purge", "--older-than", "soon")
    assert told.exit_code == 2
    assert "not a duration; write it as" in " ".join(told.stderr.replace("│", " ").split())
    assert stub.asked == []


def test_dead_letters_are_purged_by_the_age_as_it_was_written(stub: StubService, run: Run) -> None:
    asked = "POST /dead-letters/purge?older_than=1h30m"
    stub.will_answer(asked, {"count": 3})
    assert run("dead-letters", "purge", "--older-than", "1h30m", "--yes").stdout == "3 dead letters deleted\n"
    assert stub.asked == [asked]


def version_use(version: int, open_: int, state: str, **more: Any) -> dict[str, Any]:
    of = {"service": "orders", "handler": "fulfil", "version": version, "marker": None}
    return of | {"marker_version": None, "open": open_, "oldest": None, "state": state} | more


def test_versions_says_how_many_open_invocations_need_which(stub: StubService, run: Run) -> None:
    items = [
        version_use(1, 0, "unused"),
        version_use(2, 41, "current", oldest="2026-11-21T12:00:00.000Z"),
        version_use(2, 0, "unused", marker="discount", marker_version=1),
        version_use(2, 38, "needed", marker="discount", marker_version=2),
        version_use(2, 3, "unasked", marker="discount"),
        version_use(9, 1, "missing"),
    ]
    stub.will_answer("GET /versions", {"items": items})
    told = run("versions")
    assert told.exit_code == 0
    lines = [line.split() for line in told.stdout.splitlines()]
    assert lines[0] == ["handler", "version", "marker", "open", "oldest", "note"]
    assert lines[1] == ["orders/fulfil", "1", "0", "may", "be", "deleted"]
    assert lines[2] == ["orders/fulfil", "2", "41", "2026-11-21T12:00:00.000Z"]
    assert lines[3][2:5] == ["discount", "1", "0"]
    assert lines[4][2:] == ["discount", "2", "38"]
    assert lines[5][2:5] == ["discount", "-", "3"]
    assert "not in the code" in told.stdout.splitlines()[6]
    assert json.loads(run("versions", "--json").stdout) == {"items": items}


# ── pauses ──────────────────────────────────────────────────────────────────────────────────

PAUSE = {"target": "orders/fulfil", "since": "2026-11-29T12:00:00.000Z", "by": "ann"}


@pytest.mark.parametrize("target", ["orders", "orders/fulfil"])
def test_a_service_or_handler_is_paused_and_resumed(stub: StubService, run: Run, target: str) -> None:
    stub.will_answer(f"POST /pauses/{target}/pause", PAUSE)
    assert run("pause", target).stdout == f"{target}: paused since 2026-11-29T12:00:00.000Z\n"
    stub.will_answer(f"POST /pauses/{target}/resume", {"resumed": ["orders", "orders/fulfil"]})
    assert run("resume", target).stdout == "orders: resumed\norders/fulfil: resumed\n"
    stub.will_answer(f"POST /pauses/{target}/resume", {"resumed": []})
    assert run("resume", target).stdout == f"{target}: was not paused\n"
    for act, answer in (("pause", PAUSE), ("resume", {"resumed": []})):
        stub.will_answer(f"POST /pauses/{target}/{act}", answer)
        assert json.loads(run(act, target, "--json").stdout) == answer


def test_what_is_paused_is_listed(stub: StubService, run: Run) -> None:
    stub.will_answer("GET /pauses", {"items": [PAUSE]})
    row = run("pauses", "--wide").stdout.splitlines()[-1]
    assert row.split() == ["orders/fulfil", "2026-11-29T12:00:00.000Z", "ann"]
    stub.will_answer("GET /pauses", {"items": []})
    assert run("pauses").stderr == "no service and no handler is paused\n"


@pytest.mark.parametrize("subject", ["orders/fulfil/k", "/fulfil", "orders/", ""])
def test_what_can_not_be_paused_is_refused_with_what_can(run: Run, subject: str) -> None:
    told = run("pause", subject)
    assert told.exit_code == 1
    assert "nor SERVICE or SERVICE/HANDLER" in told.stderr
    assert "awakeables objects pause OBJECT KEY" in told.stderr
