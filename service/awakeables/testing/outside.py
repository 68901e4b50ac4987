"""The world outside the service during a test: performs its tasks, and answers awakeables now or later."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeAlias, TypeVar

from msgspec import Raw

from awakeables.api import Api
from awakeables.core.awakeables import AwakeableRow, Completion, Heartbeat, Verdict
from awakeables.core.effects import Effect, Header
from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.records import instant
from awakeables.core.sources import source_of
from awakeables.core.texts import excerpt
from awakeables.ports import Clock, PublishReport
from awakeables.testing.answers import Answers, Delivery, PendingAwakeable, Taker, WrongAnswer, answer_of
from awakeables.wire.completions import Unreadable, decode_completion, encode_completion
from awakeables.wire.tasks import TaskRecord, decode_task, encode_effect
from awakeables.wire.traces import TRACEPARENT
from awakeables.worker.heartbeats import Heart, OverReason, is_late, revocations_of, timeout_of

T = TypeVar("T")

OnWait = Callable[[PendingAwakeable], Any]

AskService: TypeAlias = Callable[[Callable[[Api], Awaitable[Verdict | None]]], Awaitable[Verdict | None]]

OnRecord: TypeAlias = Callable[[str, bytes | None, bytes | None, Sequence[Header]], None]
"""Called with a topic, and the key, the value and the headers of a record."""

_MISTAKES = ("invalid", "unknown")
"""Verdicts that no test intends. An answer that is late or repeated can be intended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A record that the handler published; `awakeable_id` is set for a task."""

    topic: str
    key: bytes | None
    payload: Any
    awakeable_id: str | None
    task: str | None
    headers: Mapping[str, str]


class PublishedTask(NamedTuple):
    """A task that was published, once.

    Attributes:
        payload: As it was written.
        deadline: When its awakeable times out, as its worker knows it.
    """

    awakeable_id: str
    record: Published
    payload: bytes
    deadline: datetime | None


class Topics:
    """The publisher of a test's engine: queues all records for the reader."""

    def __init__(self) -> None:
        self.records: asyncio.Queue[Effect] = asyncio.Queue()

    async def publish(self, effects: Sequence[Effect], report: PublishReport) -> None:
        """Queue records."""
        for effect in effects:
            self.records.put_nowait(effect)
        report(effects, None)


class Outside:
    """The world outside a test's service: workers that read its topics, clients with an awakeable's ID.

    Attributes:
        answers: What answers tasks by itself.
        published: The published records in order, each once.
        tasks: Those among them that carry an awakeable.
        revocations: What was published for workers whose task nobody waits for any more.
        errors: The errors that must fail the test, in order.
    """

    def __init__(
        self,
        ask: AskService,
        topics: Topics,
        clock: Clock,
        answers: Answers,
        on_wait: OnWait | None,
        on_record: OnRecord,
        note: Callable[[str], None],
        state_of: Callable[[str], str | None],
    ) -> None:
        """Connect the topics, the service and the clock.

        Args:
            ask: Asks the service, which may crash meanwhile.
            topics: What it publishes.
            clock: The time.
            answers: What answers tasks.
            on_wait: Called with awakeables that nothing answers.
            on_record: Called with each record of a topic.
            note: Called with what happens, in words.
            state_of: The state of an awakeable.
        """
        self._ask = ask
        self.answers = answers
        self._on_record = on_record
        self._note = note
        self._state_of = state_of
        self.revocations: list[Any] = []
        self._seen: set[str] = set()
        self._inbox = topics.records
        self._clock = clock
        self._on_wait = on_wait
        self._count = 0
        self._topics: dict[str, str] = {}
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._outgoing: list[Delivery] = []
        self._late: list[tuple[int, int, Delivery]] = []
        self.published: list[Published] = []
        self.tasks: list[PublishedTask] = []
        self.errors: list[BaseException] = []

    async def read_all(self) -> None:
        """Read what is published, and perform the tasks, until cancelled."""
        while True:
            self._read(await self._inbox.get())

    def _read(self, effect: Effect) -> None:
        if effect.kind == "dead-letter":
            return  # the service's own copy, which no handler has published
        if effect.kind == "revocation":
            self.revocations.append(readable(effect.value))
            return
        value, headers = encode_effect(effect)
        self._on_record(effect.topic, effect.key, value, headers)
        if effect.event_id in self._seen:
            return  # again, after a crash
        self._seen.add(effect.event_id)
        facts = effect.task
        record = Published(
            topic=effect.topic,
            key=effect.key,
            payload=readable(effect.value),
            awakeable_id=facts.awakeable_id if facts else None,
            task=facts.task if facts else None,
            headers=_texts(headers),
        )
        self.published.append(record)
        self._note(f"published to {effect.topic!r}: {excerpt(record.payload)}")
        if facts is not None:
            deadline = None if facts.deadline_ms is None else instant(facts.deadline_ms)
            self.tasks.append(PublishedTask(facts.awakeable_id, record, effect.value or b"", deadline))
            self._topics[facts.awakeable_id] = effect.topic
            doing = asyncio.ensure_future(self._do(effect.topic, value, headers))
            self._under_way[doing] = facts.awakeable_id
            doing.add_done_callback(self._under_way.pop)

    async def _do(self, topic: str, value: bytes | None, headers: Sequence[Header]) -> None:
        try:
            task = decode_task(value, headers)
            takers = self.answers.takers(task, topic)
        except Exception as error:
            self.errors.append(error)
            return
        await asyncio.gather(*(self._do_as(taker, task, topic, _texts(headers)) for taker in takers))

    async def _do_as(self, taker: Taker, task: TaskRecord, topic: str, headers: Mapping[str, str]) -> None:
        """Do a task as one of those that take it, and deliver the answer."""
        try:
            answered = await self._answered(taker, task, topic, headers)
            if answered is not None:
                await self._take(answered)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # pytest.fail() in an answer is not an Exception
            self.errors.append(error)

    def why_over(
        self, awakeable_id: str, deadline: datetime | None, headers: Mapping[str, str]
    ) -> OverReason | None:
        """Why nobody waits for a task any more, as far as its worker knows; None: somebody may."""
        if is_late(deadline, self._clock.now_ms()):
            return "timed-out"
        if revocations_of(headers) is None:
            return None
        match self._state_of(awakeable_id):
            case "cancelled" | "timed-out" as state:
                return state
            case _:
                return None

    async def heartbeat(self, awakeable_id: str, progress: bytes) -> None:
        """Send a heartbeat over the wire, as workers do."""
        body = Heartbeat(progress=Raw(progress))
        self._count += 1
        source = source_of("testing", str(self._count))
        completion = Completion(awakeable_id=awakeable_id, body=body, source=source)
        sent = decode_completion(encode_completion(completion), source=source)
        await self._ask(lambda api: api.settle(sent))

    async def _answered(
        self, taker: Taker, task: TaskRecord, topic: str, headers: Mapping[str, str]
    ) -> Delivery | None:
        """Call the function that takes a task, and send its heartbeats meanwhile, as the worker does.

        An answer of the test need not stand for a worker with the SDK: only what it makes is sent.
        """
        over = functools.partial(self.why_over, task.awakeable_id, task.deadline, headers)
        if taker.is_worker and over() is not None:
            return None
        heart = Heart(
            functools.partial(self.heartbeat, task.awakeable_id),
            over,
            timeout_s=timeout_of(headers),
            keepalive=taker.function.keepalive,
        )
        if taker.is_worker:
            heart.open()
        answering = _caught(answer_of(taker, task, topic, headers, heart.beat))
        # With variables of its own, since it is the user's code; its heartbeats and its answer are not.
        answered = await asyncio.get_running_loop().create_task(answering, context=copy_context())
        if not _is_cancelled():  # at the end of the test the service takes no more heartbeats
            await heart.close()
        if isinstance(answered, BaseException):
            raise answered
        return answered

    async def _take(self, delivery: Delivery) -> None:
        if delivery.after:
            self.delay(delivery)
        else:
            await self._settle(delivery)

    def delay(self, delivery: Delivery) -> None:
        """Deliver an answer when its delay has passed: `give_what_is_due` does."""
        due_ms = self._clock.now_ms() + delivery.after // timedelta(milliseconds=1)
        self._count += 1
        self._late.append((self._count, due_ms, delivery))

    async def _settle(self, delivery: Delivery) -> None:
        """Send an answer over the wire, as workers do.

        Raises:
            WrongAnswer: The verdict is one that no test intends.
        """
        verdict = await self.settle(delivery)
        if verdict.kind == "conflict":
            raise _wrong(delivery, verdict)

    async def settle(self, delivery: Delivery) -> Verdict:
        """The same, for a test that looks at the verdict.

        Raises:
            WrongAnswer: The answer does not fit, or there is no such awakeable.
        """
        self._count += 1
        source = source_of("testing", str(self._count))
        completion = Completion(awakeable_id=delivery.awakeable_id, body=delivery.body, source=source)
        headers = [(TRACEPARENT, delivery.trace.encode())] if delivery.trace else []
        try:
            sent = decode_completion(encode_completion(completion), source=source, headers=headers)
        except Unreadable as error:
            raise WrongAnswer(f"{delivery.what}: {error}") from None
        verdict = await self._ask(lambda api: api.settle(sent))
        assert verdict is not None, "it is no heartbeat"
        self._note(f"{delivery.what} is {verdict.kind}")
        if verdict.kind in _MISTAKES:
            raise _wrong(delivery, verdict)
        return verdict

    def due(self) -> Iterator[tuple[str, int]]:
        """The delayed answers, each with its instant."""
        for number, due_ms, delivery in self._late:
            yield f"answer {number} to {delivery.awakeable_id}", due_ms

    async def give_what_is_due(self) -> None:
        """Deliver the delayed answers that are due.

        Raises:
            WrongAnswer: One is not accepted; those after it are still due.
        """
        now_ms = self._clock.now_ms()
        for late in [each for each in self._late if each[1] <= now_ms]:
            self._late.remove(late)
            await self._settle(late[2])

    async def ask(self, pending: Iterable[AwakeableRow]) -> bool:
        """Call `on_wait` for awakeables that nothing answers; return whether it gave an answer.

        Raises:
            WrongAnswer: The answer is not accepted, or was returned instead of given.
            Exception: Raised by `on_wait`.
        """
        if self._on_wait is None:
            return False
        answered = {*self._under_way.values(), *(delivery.awakeable_id for *_, delivery in self._late)}
        for row in pending:
            if row.id in answered:
                continue
            deadline = None if row.deadline_ms is None else instant(row.deadline_ms)
            returned = self._on_wait(
                PendingAwakeable(
                    id=row.id, deadline=deadline, topic=self._topics.get(row.id), outgoing=self._outgoing
                )
            )
            if inspect.isawaitable(returned):
                returned = await returned
            if returned is not None:
                raise WrongAnswer(
                    f"on_wait returned {excerpt(returned)}, which is not an answer: use "
                    "wait.resolve(value) or wait.reject(reason), and return nothing"
                )
            if self._outgoing:
                outgoing, self._outgoing[:] = list(self._outgoing), []
                for delivery in outgoing:
                    await self._take(delivery)
                return True
        return False

    def topic_of(self, awakeable_id: str) -> str | None:
        """Where the task of an awakeable was published."""
        return self._topics.get(awakeable_id)

    def describe(self, row: AwakeableRow) -> str:
        """A pending awakeable, by its ID and the topic of its task."""
        topic = self._topics.get(row.id)
        return row.id if topic is None else f"{row.id} (published to {topic!r})"

    def refuse_unused(self, failure: Exception | None) -> None:
        """Check that every answer was used.

        Raises:
            WrongAnswer: No task asked for one of the answers.
        """
        self._refuse(self.answers.unused, failure)

    def refuse_unknown(self) -> None:
        """Check that every answer was for what is the name or the topic of a task.

        Raises:
            WrongAnswer: There was no such task.
        """
        known = {name for task in self.tasks for name in (task.record.task, task.record.topic)}
        self._refuse(self.answers.names - known, None)

    def _refuse(self, names: Set[str], failure: Exception | None) -> None:
        if not names:
            return
        raise WrongAnswer(
            f"no task has asked for the answers to {', '.join(map(repr, sorted(names)))}; "
            f"published to: {self.describe_published()}"
        ) from failure

    def describe_published(self) -> str:
        """The topics that were published to, and the names of the tasks."""
        tasks = {
            f"{record.topic!r}" + (f" (task {record.task!r})" if record.task else "")
            for record in self.published
            if record.awakeable_id is not None
        }
        plain = {f"{r.topic!r} (without an awakeable)" for r in self.published if r.awakeable_id is None}
        return ", ".join(sorted(tasks | plain)) or "nothing"


def readable(value: bytes | None) -> Any:
    """The content of a record or a result: Python values if it is JSON, else the bytes."""
    try:
        return None if value is None else decode_json(value)
    except ValueError:
        return value


async def _caught(work: Awaitable[T]) -> T | BaseException:
    """What it returns or raises: a task that ends with `SystemExit` would end the loop."""
    try:
        return await work
    except BaseException as error:
        return error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _texts(headers: Sequence[Header]) -> dict[str, str]:
    return {name: (content or b"").decode("utf-8", "surrogateescape") for name, content in headers}


def _wrong(delivery: Delivery, verdict: Verdict) -> WrongAnswer:
    return WrongAnswer(f"{delivery.what} is {verdict.kind}: {verdict.reason}; it was {_shown(delivery.body)}")


def _shown(body: Resolution | Rejection) -> str:
    if isinstance(body, Rejection):
        return f"the rejection {excerpt(body.reason)}"
    return f"{excerpt(body.content)}"
