"""What becomes of one record: no broker, no time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace
from pydantic import BaseModel, field_validator

from awakeables.core.awakeables import DeadTask
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.errors import TerminalError
from awakeables.handlers.retry import RetryPolicy
from awakeables.telemetry import events
from awakeables.wire.dead_tasks import MOST_REASON_CHARACTERS
from awakeables.worker.port import Incoming, Outgoing
from awakeables.worker.process import Answered, DeadLettered, Fate, PastDeadline, Unfinished
from awakeables.worker.replies import ReplyTopics
from awakeables.worker.task import Reject, Task
from awakeables.worker.worker import Worker
from support.logs import heard
from unit.worker.fakes import (
    NOW_MS,
    TRACEPARENT,
    MovedClock,
    at,
    awakeable_id,
    completion,
    process,
    task_record,
)


class Order(BaseModel):
    order: str


ORDER = {"order": "o-17"}


class OvenError(Exception):
    """What a task raises that is not meant to."""


def message(fate: Fate) -> Outgoing:
    assert isinstance(fate, Answered | DeadLettered)
    return fate.message


def outcome(fate: Fate) -> Any:
    assert isinstance(fate, Answered)
    return completion(fate.message).body


def header(record: Outgoing, name: str) -> str:
    (content,) = [value for key, value in record.headers if key == name]
    assert content is not None
    return content.decode()


def answering(result: Any = None, error: BaseException | None = None) -> Worker:
    worker = Worker("packer")

    @worker.task("tasks")
    async def pack(task: Task[Any]) -> Any:
        if error is not None:
            raise error
        return result

    return worker


# ── answers ─────────────────────────────────────────────────────────────────────────────────


async def test_returning_resolves() -> None:
    fate = await process(answering({"parcel": "p-9"}), task_record(ORDER))
    assert outcome(fate) == Resolution.of_json(b'{"parcel":"p-9"}')


async def test_returning_bytes_resolves_with_the_bytes() -> None:
    worker = Worker("packer")

    @worker.task("tasks")
    async def pack(task: Task[Order]) -> bytes:
        return b"\xff\x00"

    assert outcome(await process(worker, task_record(ORDER))) == Resolution.of_bytes(b"\xff\x00")


async def test_an_answer_goes_where_the_task_says_under_the_awakeables_id() -> None:
    fate = await process(answering(), task_record(ORDER, reply_to="bookshop.completions"))
    sent = message(fate)
    assert (sent.topic, sent.key) == ("bookshop.completions", awakeable_id().encode())


async def test_an_answer_names_its_worker_its_try_and_an_event_id_that_is_the_same_next_time() -> None:
    first, second = [message(await process(answering(), task_record(ORDER))) for _ in range(2)]
    said = completion(first)
    assert (said.worker, said.attempt, said.event_id) == ("packer", 1, f"{awakeable_id()}:1")
    assert header(first, "awakeable-event-id") == said.event_id
    assert header(first, "content-type") == "application/json"
    assert first == second


async def test_an_answer_belongs_to_the_trace_of_its_task() -> None:
    state = ("tracestate", b"vendor=1")
    other = ("tenant", b"acme")
    sent = message(await process(answering(), task_record(ORDER, headers=[TRACEPARENT, other, state])))
    assert [pair for pair in sent.headers if pair[0].startswith("trace")] == [TRACEPARENT, state]
    assert "tenant" not in dict(sent.headers)


async def test_reject_rejects_with_reason_code_and_details() -> None:
    fate = await process(
        answering(error=Reject("out of stock", code=409, details={"sku": "x"})), task_record()
    )
    rejection = outcome(fate)
    assert (rejection.reason, rejection.code, bytes(rejection.details)) == (
        "out of stock",
        409,
        b'{"sku":"x"}',
    )


async def test_reject_is_a_bad_request_unless_it_says_otherwise() -> None:
    assert outcome(await process(answering(error=Reject("no")), task_record())) == Rejection(
        reason="no", code=400
    )


async def test_reject_is_not_tried_again() -> None:
    clock = MovedClock()
    await process(answering(error=Reject("no")), task_record(), clock)
    assert clock.pauses == []


async def test_a_terminal_error_is_final_in_a_worker_too() -> None:
    fate = await process(answering(error=TerminalError("never", code=410)), task_record())
    assert outcome(fate) == Rejection(reason="never", code=410)


# ── what the function is given ──────────────────────────────────────────────────────────────


async def given(record: Incoming) -> Task[Any]:
    worker = Worker("packer")
    tasks: list[Task[Any]] = []

    @worker.task("tasks")
    def keep(task: Task[Order]) -> None:
        tasks.append(task)

    assert isinstance(await process(worker, record), Answered)
    (task,) = tasks
    return task


@pytest.mark.parametrize("enveloped", [True, False])
async def test_the_function_is_given_all_that_the_task_says(enveloped: bool) -> None:
    deadline_ms = NOW_MS + 60_000
    task = await given(
        task_record(
            ORDER,
            name="pack",
            deadline_ms=deadline_ms,
            enveloped=enveloped,
            headers=[("tenant", b"a"), ("tenant", b"b"), ("raw", b"\xff"), ("none", None)],
        )
    )
    assert task.payload == Order(order="o-17")
    assert (task.awakeable_id, task.event_id) == (awakeable_id(), "evt_1")
    assert (task.name, task.topic, task.attempt) == ("pack", "tasks", 1)
    assert task.deadline == at(deadline_ms)
    assert task.headers["tenant"] == "b"
    assert task.headers["raw"].encode("utf-8", "surrogateescape") == b"\xff"
    assert task.headers["none"] == ""


async def test_a_function_without_annotations_is_given_plain_json() -> None:
    worker = Worker("packer")
    payloads: list[Any] = []

    @worker.task("tasks")
    def keep(task):  # type: ignore[no-untyped-def]
        payloads.append(task.payload)

    await process(worker, task_record(b'{"n": 18446744073709551616}'))
    assert payloads == [{"n": 2**64}]


async def test_a_function_can_take_the_payload_as_it_was_written() -> None:
    worker = Worker("packer")
    payloads: list[bytes] = []

    @worker.task("tasks")
    def keep(task: Task[bytes]) -> None:
        payloads.append(task.payload)

    await process(worker, task_record(b"\xff\x00", enveloped=False))
    await process(worker, task_record(b'{"order": 1.50}'))
    assert payloads == [b"\xff\x00", b'{"order": 1.50}']


async def test_a_blocking_function_runs_in_a_thread() -> None:
    worker = Worker("packer")

    @worker.task("tasks")
    def where(task: Task[Any]) -> bool:
        return threading.current_thread() is threading.main_thread()

    assert outcome(await process(worker, task_record())) == Resolution.of_json(b"false")


async def test_an_async_function_runs_on_the_event_loop() -> None:
    worker = Worker("packer")

    @worker.task("tasks")
    async def where(task: Task[Any]) -> bool:
        return threading.current_thread() is threading.main_thread()

    assert outcome(await process(worker, task_record())) == Resolution.of_json(b"true")


async def test_a_plain_function_around_an_async_one_is_awaited() -> None:
    worker = Worker("packer")

    async def answer() -> int:
        return 5

    @worker.task("tasks")
    def around(task: Task[Any]) -> Awaitable[int]:
        return answer()

    assert outcome(await process(worker, task_record())) == Resolution.of_json(b"5")


async def test_stop_iteration_in_a_thread_is_an_error_like_any_other() -> None:
    worker = Worker("packer", retry=RetryPolicy(max_attempts=1))

    @worker.task("tasks")
    def first(task: Task[Any]) -> Any:
        return next(iter(()))

    assert outcome(await process(worker, task_record())).code == 500


# ── retries ─────────────────────────────────────────────────────────────────────────────────


async def test_other_errors_are_tried_again_with_back_off_until_it_works() -> None:
    worker, clock = Worker("packer"), MovedClock()
    attempts: list[int] = []

    @worker.task("tasks")
    async def flaky(task: Task[Any]) -> int:
        attempts.append(task.attempt)
        if len(attempts) < 4:
            raise OvenError
        return task.attempt

    fate = await process(worker, task_record(), clock)
    assert attempts == [1, 2, 3, 4]
    assert clock.pauses == [0.5, 1, 2]
    said = completion(message(fate))
    assert (said.body, said.attempt, said.event_id) == (
        Resolution.of_json(b"4"),
        4,
        f"{awakeable_id()}:4",
    )


async def test_what_keeps_failing_is_rejected_with_code_500_and_the_last_error() -> None:
    clock = MovedClock()
    with heard() as logs:
        fate = await process(answering(error=OvenError("the oven is cold")), task_record(), clock)
    assert outcome(fate) == Rejection(
        reason="failed 5 times, last with OvenError: the oven is cold", code=500
    )
    assert len(clock.pauses) == 4
    assert [entry["event"] for entry in logs] == [events.TASK_RETRIED] * 4 + [events.TASK_REJECTED]
    assert {entry["awakeable_id"] for entry in logs} == {awakeable_id()}


async def test_a_policy_can_bound_the_time_of_the_retries() -> None:
    worker, clock = Worker("packer"), MovedClock()

    @worker.task(
        "tasks",
        retry=RetryPolicy(initial_interval=timedelta(seconds=1), factor=1, max_duration=timedelta(seconds=3)),
    )
    async def fail(task: Task[Any]) -> None:
        raise OvenError

    assert "failed 4 times" in outcome(await process(worker, task_record(), clock)).reason
    assert sum(clock.pauses) == 3


@pytest.mark.parametrize(
    "error", [SystemExit(1), asyncio.CancelledError(), ValueError(), OSError("no file \udcff")]
)
async def test_no_error_of_a_function_ends_the_worker(error: BaseException) -> None:
    assert type(error).__name__ in outcome(await process(answering(error=error), task_record())).reason


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), StopIteration(), SystemExit(3)])
@pytest.mark.parametrize("is_async", [True, False])
async def test_case_p3_all_that_a_function_raises_is_a_failed_try(
    error: BaseException, is_async: bool
) -> None:
    worker, calls = Worker("packer"), list[int]()

    def fail(task: Task[Any]) -> None:
        calls.append(task.attempt)
        raise error

    async def fail_later(task: Task[Any]) -> None:
        fail(task)

    worker.task("tasks")(fail_later if is_async else fail)
    assert "failed 5 times" in outcome(await process(worker, task_record())).reason
    assert len(calls) == 5


async def test_case_p4_a_function_that_cancels_its_own_task_has_failed() -> None:
    worker = Worker("packer")

    @worker.task("tasks")
    async def cancel(task: Task[Any]) -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(0)

    assert "last with CancelledError" in outcome(await process(worker, task_record())).reason


async def test_case_p7_what_a_function_says_is_bounded() -> None:
    raised = outcome(await process(answering(error=ValueError("x" * 10_000_000)), task_record()))
    refused = outcome(
        await process(answering(error=Reject("x" * 10_000_000, details="y" * 10**7)), task_record())
    )
    assert len(raised.reason) < 2200
    assert len(refused.reason) < 2200
    assert refused.details is UNSET


NESTED: list[Any] = []
for _ in range(500):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("rejection", "reason", "code"),
    [
        (Reject("no file \udcff"), "no file ?", 400),
        (Reject(5), "5", 400),  # type: ignore[arg-type]
        (Reject("no", code="404"), "no (its code '404' is not an integer)", 500),  # type: ignore[arg-type]
        (Reject("no", code=2**64), "no", 2**64),
        (Reject("no", details=NESTED), "no", 400),
        (Reject("no", details=object()), "no", 400),
    ],
    ids=["no UTF-8", "no text", "a code of text", "a large code", "nested details", "odd details"],
)
async def test_a_rejection_reaches_the_waiting_handler_whatever_it_says(
    rejection: Reject, reason: str, code: int
) -> None:
    said = outcome(await process(answering(error=rejection), task_record()))
    assert isinstance(said, Rejection)
    assert (said.reason, said.code) == (reason, code)


async def test_a_serde_that_writes_text_is_an_error_that_says_so() -> None:
    """The `json` module is one: its `dumps` writes a text."""
    worker = Worker("packer")

    @worker.task("tasks", serde=json)  # type: ignore[arg-type]
    async def pack(task: Task[Any]) -> Any:
        return 1

    assert "dumps returned str; it must return bytes" in outcome(await process(worker, task_record())).reason


async def test_the_cancellation_of_the_worker_is_not_an_error_of_the_function() -> None:
    worker, begun = Worker("packer"), asyncio.Event()

    @worker.task("tasks")
    async def wait(task: Task[Any]) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as children:
        running = children.create_task(process(worker, task_record()))
        await begun.wait()
        running.cancel()
    assert running.cancelled()


@pytest.mark.parametrize("result", [object(), float("nan"), {"deep": float("inf")}])
async def test_a_result_that_can_not_be_written_fails_the_task_after_one_execution(result: object) -> None:
    clock = MovedClock()
    failed = outcome(await process(answering(result), task_record(), clock))
    assert (failed.code, clock.pauses) == (500, [])
    assert "failed once, last with ResultMisfit: <task" in failed.reason


async def test_a_drain_during_the_back_off_leaves_the_task_to_the_next_worker() -> None:
    clock = MovedClock()
    clock.drains_after = 2
    assert isinstance(await process(answering(error=OvenError()), task_record(), clock), Unfinished)


# ── the deadline ────────────────────────────────────────────────────────────────────────────


async def test_a_task_past_its_deadline_is_skipped_and_logged() -> None:
    with heard() as logs:
        fate = await process(answering(), task_record(deadline_ms=NOW_MS))
    assert isinstance(fate, PastDeadline)
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == (events.TASK_EXPIRED, "warning")
    assert (entry["awakeable_id"], entry["worker"]) == (awakeable_id(), "packer")


async def test_a_task_just_before_its_deadline_is_done() -> None:
    assert isinstance(await process(answering(), task_record(deadline_ms=NOW_MS + 1)), Answered)


async def test_the_deadline_is_looked_at_before_each_try() -> None:
    worker, clock = Worker("packer"), MovedClock()

    @worker.task("tasks", retry=RetryPolicy(initial_interval=timedelta(0)))
    async def slow(task: Task[Any]) -> None:
        clock.ms += 400
        raise OvenError

    with heard() as logs:
        fate = await process(worker, task_record(deadline_ms=NOW_MS + 1000), clock)
    # The third failure comes after the deadline; there is no fourth try.
    assert isinstance(fate, Answered)
    assert outcome(fate).reason.startswith("failed 3 times")
    assert [entry["event"] for entry in logs] == [events.TASK_RETRIED] * 2 + [events.TASK_REJECTED]


async def test_a_task_that_can_not_be_retried_in_time_is_rejected_before_its_deadline() -> None:
    clock = MovedClock()
    fate = await process(answering(error=OvenError("cold")), task_record(deadline_ms=NOW_MS + 1000), clock)
    assert outcome(fate) == Rejection(reason="failed 2 times, last with OvenError: cold", code=500)
    assert clock.pauses == [0.5]


# ── dead letters ────────────────────────────────────────────────────────────────────────────


def misfit() -> Worker:
    worker = Worker("packer")

    @worker.task("tasks", "pack")
    def pack(task: Task[Order]) -> None:
        raise AssertionError("not to be called")

    return worker


SEEN: Any = [("seen", b"1"), ("seen", b"2"), ("null", None)]
NO_ZONE = f'{{"awakeable_id": "{awakeable_id()}", "reply_to": "r", "deadline": "2026-09-21T14:13:20"}}'
UNREADABLE = {
    "a deadline without a zone": NO_ZONE.encode(),
    "null": None,
    "no JSON": b"\xff\xfe",
    "no task": b'{"hello": "world"}',
    "deep": b"[" * 20_000,
    "bad ID": b'{"awakeable_id": "prom_1x", "reply_to": "shop.completions"}',
    "bad UTF-8 in a field": b'{"awakeable_id": "\xff", "reply_to": "shop.completions"}',
    "no topic": f'{{"awakeable_id": "{awakeable_id()}", "reply_to": "no topic"}}'.encode(),
    "NaN": f'{{"awakeable_id": "{awakeable_id()}", "reply_to": "r", "payload": NaN}}'.encode(),
    "empty": b"",
    "empty topic": f'{{"awakeable_id": "{awakeable_id()}", "reply_to": ""}}'.encode(),
}


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_record_that_is_not_a_task_is_a_dead_letter_byte_for_byte(value: bytes | None) -> None:
    record = Incoming(topic="tasks", partition=3, offset=17, key=b"\xff", value=value, headers=tuple(SEEN))
    with heard() as logs:
        fate = await process(misfit(), record)
    assert isinstance(fate, DeadLettered)
    letter = fate.message
    assert (letter.topic, letter.key, letter.value) == ("tasks.dlq", b"\xff", value)
    assert list(letter.headers[:3]) == SEEN
    assert header(letter, "awakeable-error-code") == "unreadable"
    assert header(letter, "__connect.errors.topic") == "tasks"
    assert header(letter, "__connect.errors.partition") == "3"
    assert header(letter, "__connect.errors.offset") == "17"
    assert header(letter, "__connect.errors.exception.message")
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == (events.TASK_UNREADABLE, "error")


@pytest.mark.parametrize("payload", [b"{}", b'{"order": 5}', b"null", b"[]", b'{"order": "\xff"}'])
@pytest.mark.parametrize("enveloped", [True, False])
async def test_a_payload_that_does_not_fit_is_a_dead_letter(payload: bytes, enveloped: bool) -> None:
    fate = await process(misfit(), task_record(payload, name="pack", enveloped=enveloped))
    assert isinstance(fate, DeadLettered)
    assert header(fate.message, "awakeable-error-code") == "invalid"


async def test_a_dead_letter_says_what_does_not_fit_without_the_value() -> None:
    record = task_record({"order": 17, "card": "4111"}, name="pack")
    reason = header(message(await process(misfit(), record)), "__connect.errors.exception.message")
    assert reason == "the payload does not fit: order: Input should be a valid string"


async def test_a_task_that_no_function_takes_is_a_dead_letter() -> None:
    letter = message(await process(misfit(), task_record(ORDER, name="ship")))
    assert header(letter, "awakeable-error-code") == "unknown-task"
    assert "'ship'" in header(letter, "__connect.errors.exception.message")


async def test_null_and_repeated_headers_and_no_key_stop_nothing() -> None:
    record = task_record(ORDER, headers=SEEN)
    bare = Incoming(
        topic="tasks", partition=0, offset=0, key=None, value=record.value, headers=record.headers
    )
    worker, seen = Worker("packer"), []

    @worker.task("tasks")
    async def pack(task: Task[Order]) -> None:
        seen.append((task.headers["seen"], task.headers["null"]))

    assert outcome(await process(worker, bare)) == Resolution.of_json(b"null")
    assert seen == [("2", "")]


async def test_of_duplicate_keys_of_a_task_the_last_counts() -> None:
    facts = f'"awakeable_id": "{awakeable_id()}", "reply_to": "shop.completions"'
    task = f'{{{facts}, "payload": 1, "payload": {2**64}}}'
    record = Incoming(topic="tasks", partition=0, offset=0, key=None, value=task.encode())
    worker, seen = Worker("packer"), []

    @worker.task("tasks")
    async def pack(task: Task[int]) -> int:
        seen.append(task.payload)
        return task.payload

    assert outcome(await process(worker, record)) == Resolution.of_json(str(2**64).encode())
    assert seen == [2**64]


async def test_a_validator_that_raises_anything_makes_a_dead_letter() -> None:
    class Odd:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            from pydantic_core import core_schema

            def check(value: Any) -> Any:
                raise KeyError("odd")

            return core_schema.no_info_plain_validator_function(
                check, json_schema_input_schema=core_schema.any_schema()
            )

    worker = Worker("packer")
    worker.task("tasks")(_taking(Odd))
    assert isinstance(await process(worker, task_record(ORDER)), DeadLettered)


def _taking(type_: Any) -> Any:
    def function(task: Any) -> None: ...

    function.__annotations__["task"] = Task[type_]
    return function


async def test_case_w14_a_task_that_can_not_be_used_is_reported_where_its_handler_waits() -> None:
    record = task_record({"quote": 1}, name="pack", offset=9, headers=[TRACEPARENT])
    with heard() as logs:
        fate = await process(orders_only(), record)
    assert isinstance(fate, DeadLettered)
    assert fate.message.topic == "tasks.dlq"
    whole, short = fate.reports
    assert (whole.topic, whole.key) == ("shop.completions", awakeable_id().encode())
    assert TRACEPARENT in whole.headers
    told = completion(whole)
    assert (told.awakeable_id, told.worker, told.event_id) == (awakeable_id(), "packer", "tasks:0:9")
    assert isinstance(told.body, DeadTask)
    assert (told.body.code, told.body.topic, told.body.offset) == ("invalid", "tasks", 9)
    assert (told.body.key, told.body.value, told.body.headers) == (record.key, record.value, record.headers)
    assert told.body.reason.startswith("the payload does not fit: order")
    assert completion(short).body == replace(told.body, key=None, value=None, headers=(), whole=False)
    [entry] = [entry for entry in logs if entry["event"] == events.TASK_UNREADABLE]
    assert entry["awakeable_id"] == awakeable_id()


def orders_only() -> Worker:
    worker = Worker("packer")

    @worker.task("tasks", "pack")
    async def pack(task: Task[Order]) -> None: ...

    return worker


def of_a_later_version(record: Incoming) -> Incoming:
    return replace(record, value=json.dumps(json.loads(record.value or b"") | {"v": 2}).encode(), headers=())


def with_half_a_surrogate(record: Incoming) -> Incoming:
    return replace(record, value=b"\xff")


@pytest.mark.parametrize("spoil", [of_a_later_version, with_half_a_surrogate])
async def test_case_w14_whatever_of_a_bad_record_says_who_waits_is_enough(spoil: Any) -> None:
    fate = await process(orders_only(), spoil(task_record({"quote": 1}, enveloped=True)))
    assert isinstance(fate, DeadLettered)
    assert [report.key for report in fate.reports] == [awakeable_id().encode()] * 2


@pytest.mark.parametrize(
    "record",
    [
        Incoming(topic="tasks", partition=0, offset=1, value=b"?"),
        Incoming(topic="tasks", partition=0, offset=1, value=None, headers=(("awakeable-id", b"prom_1"),)),
        task_record(1, reply_to="two words"),
    ],
)
async def test_case_w14_a_record_that_does_not_say_who_waits_is_not_reported(record: Incoming) -> None:
    fate = await process(orders_only(), record)
    assert isinstance(fate, DeadLettered)
    assert fate.reports == ()


class Strict(BaseModel):
    order: str

    @field_validator("order")
    @classmethod
    def check(cls, _value: str) -> str:
        raise RuntimeError("half a \ud800 " * 1000)


async def test_case_w14_a_report_is_written_whatever_a_validator_says() -> None:
    worker = Worker("packer")

    @worker.task("tasks")
    async def pack(task: Task[Strict]) -> None: ...

    fate = await process(worker, task_record(ORDER))
    assert isinstance(fate, DeadLettered)
    body = completion(fate.reports[0]).body
    assert isinstance(body, DeadTask)
    assert "half a ?" in body.reason
    assert len(body.reason) <= MOST_REASON_CHARACTERS


@pytest.mark.parametrize("reply_to", ["payments", "shop.completions.dlq", "completions", "a.completions-x"])
async def test_case_o15_a_task_makes_no_worker_publish_to_any_topic(reply_to: str) -> None:
    called = []
    worker = Worker("packer")

    @worker.task("tasks")
    async def pack(task: Task[Any]) -> None:
        called.append(task)

    fate = await process(worker, task_record(ORDER, reply_to=reply_to))
    assert isinstance(fate, DeadLettered)
    assert (called, fate.reports) == ([], ())
    assert header(fate.message, "awakeable-error-code") == "unanswerable"
    why = header(fate.message, "__connect.errors.exception.message")
    assert f"reply_to {reply_to!r} is not one of the topics that this worker answers to" in why
    assert "AWAKEABLES_WORKER_REPLY_TOPICS" in why


async def test_case_o15_an_unreadable_task_makes_no_worker_report_to_any_topic() -> None:
    fate = await process(orders_only(), task_record({"quote": 1}, name="pack", reply_to="payments"))
    assert isinstance(fate, DeadLettered)
    assert fate.reports == ()


async def test_case_o15_the_operator_says_where_a_worker_answers() -> None:
    topics = ReplyTopics("shop.completions, eu-*.answers")
    allowed = ["shop.completions", "eu-1.answers"]
    for reply_to in [*allowed, "other.completions", "eu-1.answers.dlq", "xeu-1.answers"]:
        fate = await process(
            orders_only(), task_record(ORDER, name="pack", reply_to=reply_to), replies=topics
        )
        assert isinstance(fate, Answered) == (reply_to in allowed), reply_to


@pytest.mark.parametrize("patterns", ["", " , ", "two words", "a.completions,[a-z]", "x" * 250])
def test_case_o15_patterns_that_no_topic_can_have_are_refused(patterns: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        ReplyTopics(patterns)


@pytest.mark.parametrize("attempt", ["9" * 4300, "9" * 10, "-1", "1_0", " 1", "\u0661", ""])
async def test_case_w3_an_attempt_that_is_not_a_number_ends_no_worker(attempt: str) -> None:
    """With 4,300 digits the next attempt is a number that Python doesn't write."""
    record = task_record()
    headers = (*record.headers, ("awakeable-attempt", attempt.encode()))
    fate = await process(answering(error=ValueError("no")), replace(record, headers=headers))
    assert isinstance(fate, DeadLettered)
    assert ("awakeable-error-code", b"unreadable") in fate.message.headers


async def test_case_w3_an_envelope_with_such_an_attempt_is_not_a_task() -> None:
    record = task_record()
    told = json.loads(record.value or b"") | {"attempt": 10**30}
    fate = await process(answering(1), replace(record, value=json.dumps(told).encode(), headers=()))
    assert isinstance(fate, DeadLettered)


@pytest.mark.parametrize("enveloped", [True, False])
async def test_case_w11_a_payload_of_too_many_values_is_a_dead_letter_before_it_is_parsed(
    enveloped: bool,
) -> None:
    many: list[Any] = [[]] * 600_000
    fate = await process(answering(1), task_record(many, enveloped=enveloped))
    assert isinstance(fate, DeadLettered)
    assert "more than 1,000,000 values" in str(
        dict(fate.message.headers)["__connect.errors.exception.message"]
    )
    assert isinstance(await process(taking_bytes(), task_record(b"," * 2_000_000, enveloped=False)), Answered)


def taking_bytes() -> Worker:
    worker = Worker("packer")

    @worker.task("tasks")
    async def count(task: Task[bytes]) -> int:
        return len(task.payload)

    return worker
