"""The world outside the service during a test: performs its tasks, and answers awakeables now or later."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from awakeables.api import Api
from awakeables.core.awakeables import AwakeableRow, Completion
from awakeables.core.effects import Effect, Header
from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.records import instant
from awakeables.core.sources import source_of
from awakeables.core.texts import excerpt
from awakeables.ports import Clock, PublishReport
from awakeables.testing.answers import Answers, Delivery, PendingAwakeable, WrongAnswer
from awakeables.wire.completions import decode_completion, encode_completion
from awakeables.wire.tasks import decode_task, encode_effect
from awakeables.wire.traces import TRACEPARENT

OnWait = Callable[[PendingAwakeable], Any]

_MISTAKES = ("invalid", "conflict", "unknown")
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
        published: The published records in order, each once.
        errors: The errors that must fail the test, in order.
    """

    def __init__(
        self, api: Api, topics: Topics, clock: Clock, answers: Answers, on_wait: OnWait | None
    ) -> None:
        """Connect the topics, the service and the clock."""
        self._api = api
        self._inbox = topics.records
        self._clock = clock
        self._answers = answers
        self._on_wait = on_wait
        self._count = 0
        self._topics: dict[str, str] = {}
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._outgoing: list[Delivery] = []
        self._late: list[tuple[int, Delivery]] = []
        self.published: list[Published] = []
        self.errors: list[BaseException] = []

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Within the block, read the published records and perform the tasks."""
        reader = asyncio.ensure_future(self._read_all())
        try:
            yield
        finally:
            reader.cancel()

    async def _read_all(self) -> None:
        while True:
            self._read(await self._inbox.get())

    def _read(self, effect: Effect) -> None:
        if effect.kind == "dead-letter":
            return  # the service's own copy, which no handler has published
        value, headers = encode_effect(effect)
        facts = effect.task
        self.published.append(
            Published(
                topic=effect.topic,
                key=effect.key,
                payload=readable(effect.value),
                awakeable_id=facts.awakeable_id if facts else None,
                task=facts.task if facts else None,
                headers=_texts(headers),
            )
        )
        if facts is not None:
            self._topics[facts.awakeable_id] = effect.topic
            doing = asyncio.ensure_future(self._do(effect.topic, value, headers))
            self._under_way[doing] = facts.awakeable_id
            doing.add_done_callback(self._under_way.pop)

    async def _do(self, topic: str, value: bytes | None, headers: Sequence[Header]) -> None:
        try:
            task = decode_task(value, headers)
            for delivery in await self._answers.deliveries(task, topic, _texts(headers)):
                await self._take(delivery)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # pytest.fail() in an answer is not an Exception
            self.errors.append(error)

    async def _take(self, delivery: Delivery) -> None:
        if delivery.after:
            due_ms = self._clock.now_ms() + delivery.after // timedelta(milliseconds=1)
            self._late.append((due_ms, delivery))
        else:
            await self._settle(delivery)

    async def _settle(self, delivery: Delivery) -> None:
        """Send an answer over the wire, as workers do.

        Raises:
            WrongAnswer: The verdict is one that no test intends.
        """
        self._count += 1
        source = source_of("testing", str(self._count))
        completion = Completion(awakeable_id=delivery.awakeable_id, body=delivery.body, source=source)
        headers = [(TRACEPARENT, delivery.trace.encode())] if delivery.trace else []
        sent = decode_completion(encode_completion(completion), source=source, headers=headers)
        verdict = await self._api.settle(sent)
        if verdict is not None and verdict.kind in _MISTAKES:
            raise WrongAnswer(
                f"{delivery.what} is {verdict.kind}: {verdict.reason}; it was {_shown(delivery.body)}"
            )

    def next_due_ms(self) -> int | None:
        """When the next delayed answer is due."""
        return min((due_ms for due_ms, _ in self._late), default=None)

    async def give_what_is_due(self) -> None:
        """Deliver the delayed answers that are due.

        Raises:
            WrongAnswer: One is not accepted.
        """
        now_ms = self._clock.now_ms()
        due = [delivery for due_ms, delivery in self._late if due_ms <= now_ms]
        self._late = [late for late in self._late if late[0] > now_ms]
        for delivery in due:
            await self._settle(delivery)

    async def ask(self, pending: Iterable[AwakeableRow]) -> bool:
        """Call `on_wait` for awakeables that nothing answers; return whether it gave an answer.

        Raises:
            WrongAnswer: The answer is not accepted, or was returned instead of given.
            Exception: Raised by `on_wait`.
        """
        if self._on_wait is None:
            return False
        answered = {*self._under_way.values(), *(delivery.awakeable_id for _, delivery in self._late)}
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

    def describe(self, row: AwakeableRow) -> str:
        """A pending awakeable, by its ID and the topic of its task."""
        topic = self._topics.get(row.id)
        return row.id if topic is None else f"{row.id} (published to {topic!r})"

    def refuse_unused(self, failure: Exception | None) -> None:
        """Check that every answer was used.

        Raises:
            WrongAnswer: No task asked for one of the answers.
        """
        if not self._answers.unused:
            return
        tasks = {
            f"{record.topic!r}" + (f" (task {record.task!r})" if record.task else "")
            for record in self.published
            if record.awakeable_id is not None
        }
        plain = {f"{r.topic!r} (without an awakeable)" for r in self.published if r.awakeable_id is None}
        raise WrongAnswer(
            f"no task has asked for the answers to {', '.join(map(repr, sorted(self._answers.unused)))}; "
            f"published to: {', '.join(sorted(tasks | plain)) or 'nothing'}"
        ) from failure


def readable(value: bytes | None) -> Any:
    """The content of a record or a result: Python values if it is JSON, else the bytes."""
    try:
        return None if value is None else decode_json(value)
    except ValueError:
        return value


def _texts(headers: Sequence[Header]) -> dict[str, str]:
    return {name: (content or b"").decode("utf-8", "surrogateescape") for name, content in headers}


def _shown(body: Resolution | Rejection) -> str:
    if isinstance(body, Rejection):
        return f"the rejection {excerpt(body.reason)}"
    return f"{excerpt(body.content)}"
