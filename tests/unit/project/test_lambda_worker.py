"""The Lambda function of docs/workers.md does the tasks that the service publishes."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from awakeables.core.awakeables import Verdict, VerdictKind
from awakeables.core.effects import Envelope, Header
from awakeables.web import render
from awakeables.web.awakeables import REFUSALS
from awakeables.web.problems import Problem, response_to
from awakeables.web.server import WebServer
from awakeables.wire.task_events import REQUESTED
from awakeables.wire.tasks import UnreadableTask, decode_task, encode_effect
from support.eventually import eventually
from support.tasks import awakeable_id, task_effect
from unit.web.harness import MAX_BODY_BYTES, serving

PAGE = (Path(__file__).parents[3] / "docs/workers.md").read_text()
SECTION = PAGE.partition("\n## In AWS Lambda\n")[2].partition("\n## ")[0]

TOPIC = "pack-requests"
FORMS: tuple[Envelope, ...] = ("json", "none", "cloudevents", "cloudevents-binary")
PARCEL = {"parcel": "parcel of o-17"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Reply = tuple[int, bytes]


class Request(msgspec.Struct):
    """What the function has sent."""

    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def deed(self) -> tuple[str, Any]:
        return self.path.rpartition("/")[2], self.body


class FakeService:
    """Records the requests, and replies as it is told to: with each reply once, then with `accepted`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.replies: list[Reply] = []

    def replying(self, request: Request) -> Reply:
        self.requests.append(request)
        return self.replies.pop(0) if self.replies else said("accepted")


def said(kind: VerdictKind) -> Reply:
    """How the service says this verdict."""
    verdict = Verdict(kind=kind, awakeable_id=awakeable_id(0), source="http:evt_1", at_ms=0)
    told = render.verdict(verdict)
    if kind not in REFUSALS:
        return 200, msgspec.json.encode(told)
    status, title = REFUSALS[kind]
    members = msgspec.structs.asdict(told) | {"outcome": None}
    return status, response_to(Problem(status, kind, title, title, members=members)).body


def problem(status: int) -> Reply:
    return status, response_to(Problem(status, "a-problem", "A problem", "without a verdict")).body


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    fake = FakeService()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, content = fake.replying(Request(self.path, headers, json.loads(body)))
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        monkeypatch.setenv("AWAKEABLES_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWAKEABLES_TOKEN", "s3cret")
        monkeypatch.setenv("no_proxy", "*")
        yield fake
        server.shutdown()
        serving.join()


@pytest.fixture
def guide(service: FakeService) -> Any:
    """The function of the page, in an environment that points to the service."""
    [code] = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    module = ModuleType("lambda_worker")
    exec(compile(code, "docs/workers.md", "exec"), module.__dict__)
    return module


class Produced(msgspec.Struct):
    """A record as it is in Kafka."""

    value: bytes | None
    headers: Sequence[Header] = ()
    key: bytes | None = None


FOREIGN = Produced(b"no task\xff", key=b"k")
TOMBSTONE = Produced(None, key=awakeable_id(0).encode())
NOTHING = Produced(None)


def task(
    number: int = 0,
    payload: Any = {"order": "o-17"},  # noqa: B006
    *,
    form: Envelope = "json",
    deadline_ms: int | None = None,
    more: Sequence[Header] = (),
) -> Produced:
    """A task as the service publishes it."""
    effect = task_effect(payload, number=number, topic=TOPIC, reply_to="shop.completions", name="pack")
    assert effect.task is not None
    facts = replace(effect.task, envelope=form, deadline_ms=deadline_ms, source="/apps/shop")
    value, headers = encode_effect(replace(effect, task=facts))
    return Produced(value, [*headers, *more], effect.key)


def without_our_headers(produced: Produced) -> Produced:
    """As a producer of another team would copy it."""
    headers = [header for header in produced.headers if not header[0].startswith("awakeable-")]
    return replace(produced, headers=headers)


def bare(produced: Produced) -> Produced:
    return replace(produced, headers=[])


def in_event(record: Produced, partition: int, offset: int, *, signed: bool) -> dict[str, Any]:
    """A record as Lambda puts it into the event."""

    def numbers(content: bytes) -> list[int]:
        return [byte - 256 if signed and byte > 127 else byte for byte in content]

    def base64_of(content: bytes | None) -> str | None:
        return None if content is None else base64.b64encode(content).decode()

    return {
        "topic": TOPIC,
        "partition": partition,
        "offset": offset,
        "timestamp": 1_795_600_800_000,
        "timestampType": "CREATE_TIME",
        "key": base64_of(record.key),
        "value": base64_of(record.value),
        "headers": [{name: numbers(content or b"")} for name, content in record.headers],
    }


def event_of(*partitions: Sequence[Produced], source: str = "aws:kafka", signed: bool = True) -> Any:
    """The event with these records, whose offsets begin at 100, as the function gets it: from JSON."""
    records = {
        f"{TOPIC}-{partition}": [
            in_event(record, partition, 100 + number, signed=signed) for number, record in enumerate(given)
        ]
        for partition, given in enumerate(partitions)
    }
    event = {"eventSource": source, "bootstrapServers": "b-1.shop.example:9092", "records": records}
    if source == "aws:kafka":
        event["eventSourceArn"] = "arn:aws:kafka:eu-central-1:123456789012:cluster/shop/1-2"
    return json.loads(json.dumps(event))


def failed(answer: Any) -> list[tuple[str, int]]:
    """What the function reports, in the form that Lambda reads."""
    assert json.loads(json.dumps(answer)) == answer
    assert set(answer) == {"batchItemFailures"}
    assert all(set(failure) == {"itemIdentifier"} for failure in answer["batchItemFailures"])
    identifiers = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
    assert all(set(identifier) == {"partition", "offset"} for identifier in identifiers)
    return [(identifier["partition"], identifier["offset"]) for identifier in identifiers]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("source", ["aws:kafka", "SelfManagedKafka"])
@pytest.mark.parametrize("form", FORMS)
def test_a_task_of_each_form_is_done_and_answered_with_the_token(
    form: Envelope, source: str, signed: bool, guide: Any, service: FakeService
) -> None:
    given = task(form=form, more=[("traceparent", TRACEPARENT.encode()), ("x-city", "Köln".encode())])
    assert failed(guide.handler(event_of([given], source=source, signed=signed), None)) == []
    [request] = service.requests
    assert request.path == f"/awakeables/{awakeable_id(0)}/resolve"
    assert request.body == PARCEL
    sent = {name: request.headers.get(name) for name in ("authorization", "content-type", "traceparent")}
    assert sent == {
        "authorization": "Bearer s3cret",
        "content-type": "application/json",
        "traceparent": TRACEPARENT,
    }
    assert request.headers["awakeable-event-id"] == f"{awakeable_id(0)}:1"


def test_a_task_is_rejected_with_a_reason(guide: Any, service: FakeService) -> None:
    assert failed(guide.handler(event_of([task(payload={"order": "sold-out"})]), None)) == []
    [request] = service.requests
    assert request.deed == ("reject", {"reason": "out of stock", "code": 409})


TASKS = {form: task(form=form) for form in FORMS}
OTHERS = {
    "a payload that looks like an envelope": task(
        payload={"awakeable_id": awakeable_id(7), "event_id": "evt_7", "reply_to": "x", "order": "o-1"},
        form="none",
    ),
    "a payload that looks like an event": task(
        payload={"specversion": "1.0", "type": REQUESTED, "subject": awakeable_id(7), "order": "o-1"},
        form="none",
    ),
    "the headers of another task": replace(task(), headers=task(7).headers),
    "published without an awakeable": replace(task(), headers=[("awakeable-event-id", b"evt_1")]),
    "a header that comes twice": task(more=[("awakeable-id", awakeable_id(7).encode())]),
    "JSON of another team": Produced(b'{"order": "o-17"}'),
    "a list": Produced(b"[1]"),
    "no task": FOREIGN,
    "a tombstone": TOMBSTONE,
    "nothing": NOTHING,
    "a tombstone with the headers of a task": replace(task(), value=None),
    "an empty value with the headers of a task": replace(task(form="none"), value=b""),
}
COPIES = {f"{form}, copied": without_our_headers(given) for form, given in TASKS.items()}
BARE = {f"{form}, without headers": bare(given) for form, given in TASKS.items()}
ALL = TASKS | OTHERS | COPIES | BARE


@pytest.mark.parametrize("given", ALL.values(), ids=ALL.keys())
def test_it_reads_what_a_worker_of_ours_reads(given: Produced, guide: Any, service: FakeService) -> None:
    """Whose order is a string; a record that is no such task is left alone, and is not reported as failed."""
    expected = []
    try:
        read = decode_task(given.value, given.headers)
        payload = msgspec.json.decode(read.payload)
        if isinstance(payload, dict) and "order" in payload:
            expected = [(read.awakeable_id, {"parcel": f"parcel of {payload['order']}"})]
    except (UnreadableTask, msgspec.DecodeError):
        pass
    assert failed(guide.handler(event_of([given]), None)) == []
    assert [(request.path.split("/")[2], request.body) for request in service.requests] == expected


@pytest.mark.parametrize("absent", ["key", "value", "headers"])
def test_a_field_that_is_absent_is_as_null(
    absent: str, guide: Any, service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    event = event_of([task(), task(1)])
    del event["records"][f"{TOPIC}-0"][0][absent]
    assert failed(guide.handler(event, None)) == []
    answered = [request.path.split("/")[2] for request in service.requests]
    assert answered == [awakeable_id(number) for number in ((1,) if absent == "value" else (0, 1))]
    assert ("pack-requests [0] at offset 100: unreadable" in capsys.readouterr().out) == (absent == "value")


def test_a_task_past_its_deadline_is_skipped(guide: Any, service: FakeService) -> None:
    given = [task(0, deadline_ms=1_000), task(1, deadline_ms=4_000_000_000_000)]
    assert failed(guide.handler(event_of(given), None)) == []
    assert [request.path.split("/")[2] for request in service.requests] == [awakeable_id(1)]


VERDICTS: tuple[VerdictKind, ...] = ("accepted", "duplicate", *REFUSALS)


@pytest.mark.parametrize("kind", VERDICTS)
def test_every_verdict_is_final(
    kind: VerdictKind, guide: Any, service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.replies = [said(kind)]
    assert failed(guide.handler(event_of([task(0), task(1)]), None)) == []
    assert [request.deed[0] for request in service.requests] == ["resolve", "resolve"]
    logged = f"{awakeable_id(0)}: {kind}" in capsys.readouterr().out
    assert logged == (kind in REFUSALS)


def test_the_page_has_the_status_of_every_verdict() -> None:
    for kind, (status, _) in REFUSALS.items():
        assert re.search(rf"^\|.*\b{status} `{kind}`", SECTION, re.MULTILINE), kind


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_answer_that_can_t_be_taken_becomes_a_rejection(
    status: int, guide: Any, service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.replies = [problem(status)]
    assert failed(guide.handler(event_of([task()]), None)) == []
    [(first, _), (second, body)] = [request.deed for request in service.requests]
    assert (first, second) == ("resolve", "reject")
    assert body == {"reason": f"the service does not accept the result ({status})", "code": 500}
    service.replies = [problem(status), problem(status)]
    assert failed(guide.handler(event_of([task()]), None)) == []
    assert f"{awakeable_id(0)}: {status}" in capsys.readouterr().out


UNDECIDED = {
    **{str(status): problem(status) for status in (401, 403, 404, 429, 500, 503)},
    "a page of a proxy": (502, b"<html>bad gateway</html>"),
    "200 of somebody else": (200, b"<html>log in</html>"),
    "200 with other JSON": (200, b"[]"),
}


@pytest.mark.parametrize("reply", UNDECIDED.values(), ids=UNDECIDED.keys())
def test_what_is_no_verdict_is_reported_as_failed(reply: Reply, guide: Any, service: FakeService) -> None:
    service.replies = [reply]
    event = event_of([task()])
    assert failed(guide.handler(event, None)) == [(f"{TOPIC}-0", 100)]
    service.replies = [said("duplicate")]
    assert failed(guide.handler(event, None)) == []
    first, second = service.requests
    assert (first.path, first.body) == (second.path, second.body)


def test_a_service_that_can_t_be_reached_is_reported_as_failed(guide: Any, service: FakeService) -> None:
    guide.URL = "http://127.0.0.1:1"
    assert failed(guide.handler(event_of([task()]), None)) == [(f"{TOPIC}-0", 100)]
    assert service.requests == []


def test_from_the_first_failure_on_a_partition_is_reported_and_not_done(
    guide: Any, service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.replies = [said("accepted"), problem(503), said("accepted"), said("conflict"), problem(503)]
    first = [task(0), FOREIGN, task(1), task(2), FOREIGN, task(3)]
    second = [task(4), task(5)]
    third = [TOMBSTONE, task(6)]
    answer = guide.handler(event_of(first, second, third), None)
    assert failed(answer) == [(f"{TOPIC}-0", offset) for offset in (102, 103, 104, 105)] + [
        (f"{TOPIC}-2", 101)
    ]
    done = [request.path.split("/")[2] for request in service.requests]
    assert done == [awakeable_id(number) for number in (0, 1, 4, 5, 6)]
    assert capsys.readouterr().out.count("comes again") == 2


def test_reported_records_are_those_of_the_event(guide: Any, service: FakeService) -> None:
    """Otherwise Lambda would deliver the whole batch again."""
    service.replies = [problem(503)] * 2
    event = event_of([task(0), task(1)], [task(2)])
    given = {(name, each["offset"]) for name, records in event["records"].items() for each in records}
    assert set(failed(guide.handler(event, None))) == given


def test_an_error_of_the_network_in_the_work_is_reported_and_any_other_rejects(
    guide: Any, service: FakeService
) -> None:
    def pack(order: str) -> Any:
        if order == "unreachable":
            raise ConnectionResetError
        return {"odd": object()} if order == "odd" else 1 / 0

    guide.pack = pack
    given = [task(number, {"order": order}) for number, order in enumerate(["zero", "odd", "unreachable"])]
    assert failed(guide.handler(event_of(given), None)) == [(f"{TOPIC}-0", 102)]
    reasons = [(deed, body["reason"], body["code"]) for deed, body in (r.deed for r in service.requests)]
    assert reasons == [
        ("reject", "ZeroDivisionError('division by zero')", 500),
        ("reject", "TypeError('Object of type object is not JSON serializable')", 500),
    ]


@pytest.mark.parametrize("odd", ["../../invocations/x", "a\r\nx-forged: 1", "\ud800", "ü"])
def test_an_odd_id_reaches_no_other_path_and_does_not_stop_its_partition(
    odd: str, guide: Any, service: FakeService
) -> None:
    service.replies = [problem(400), problem(400)]
    value = {"awakeable_id": odd, "reply_to": "x", "payload": {"order": "o-1"}}
    forged = Produced(json.dumps(value).encode(), [("traceparent", b"a\r\nx-forged: 1")])
    assert failed(guide.handler(event_of([forged, task(1)]), None)) == []
    assert all(re.fullmatch(r"/awakeables/[\w.%-]+/(resolve|reject)", r.path) for r in service.requests)
    assert all("x-forged" not in request.headers for request in service.requests)
    assert service.requests[-1].path == f"/awakeables/{awakeable_id(1)}/resolve"


def test_the_page_names_records_as_the_function_does(guide: Any, service: FakeService) -> None:
    [shown] = re.findall(r"```json\n(\{\"batchItemFailures.*?)```", SECTION, re.DOTALL)
    service.replies = [problem(503)]
    event = event_of([task()])
    event["records"][f"{TOPIC}-0"][0]["offset"] = 17
    assert guide.handler(event, None) == json.loads(shown)


async def test_the_service_itself_gives_these_verdicts(guide: Any) -> None:
    told: list[tuple[int, str | None]] = []
    answer = guide.answer

    def listening(*args: Any) -> Any:
        told.append(answer(*args))
        return told[-1]

    async def done(identity: str, result: Any) -> list[tuple[int, str | None]]:
        guide.pack = lambda _order: result
        value = {"awakeable_id": identity, "reply_to": "shop.completions", "payload": {"order": "o-17"}}
        event = event_of([Produced(msgspec.json.encode(value))])
        assert failed(await asyncio.to_thread(guide.handler, event, None)) == []
        found = told.copy()
        told.clear()
        return found

    guide.answer = listening
    async with serving() as web:
        server = WebServer(web.app, port=0)
        guide.URL = server.url
        running = asyncio.ensure_future(server.run())
        await eventually(lambda: server.started)
        first, second = await web.awakeable_of("wait"), await web.awakeable_of("wait_parcel")
        assert await done(first, PARCEL) == [(200, "accepted")]
        assert await done(first, PARCEL) == [(200, "duplicate")]
        assert await done(first, "another") == [(409, "conflict")]
        assert await done(awakeable_id(9), PARCEL) == [(404, "unknown")]
        assert await done("odd", PARCEL) == [(400, None), (400, None)]
        assert await done(second, PARCEL) == [(422, "invalid")]
        assert await done(second, "x" * MAX_BODY_BYTES) == [(413, None), (200, "accepted")]
        server.stop()
        await running
