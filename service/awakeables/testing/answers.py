"""The answers of a test: functions and values by topic or task, workers, delayed answers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from awakeables.core.outcomes import Rejection, Resolution
from awakeables.errors import AwakeablesError, TerminalError
from awakeables.handlers.calls import Raised, call
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.serde import codec_of_value, explain, result_of
from awakeables.testing.loop import ThreadInTurn
from awakeables.wire.tasks import TaskRecord
from awakeables.wire.traces import TRACEPARENT
from awakeables.worker.heartbeats import TaskOver
from awakeables.worker.task import Reject, Task
from awakeables.worker.threads import Threads
from awakeables.worker.worker import DEFAULT_RETRY, TaskFunction, Worker

AT_ONCE = timedelta(0)


class WrongAnswer(AwakeablesError):
    """An answer of the test is invalid: it does not fit, contradicts another, or no task asked for it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and its delay after the task.

    Attributes:
        value: The value that resolves the awakeable: a model, any JSON value, or bytes for one that
            takes bytes; or a `Reject`, which rejects it.
        after: The delay in virtual time; the handler may have timed out by then.
    """

    value: Any = None
    after: timedelta = AT_ONCE

    def __post_init__(self) -> None:
        """Validate the delay.

        Raises:
            ValueError: It is negative.
        """
        if self.after < AT_ONCE:
            raise ValueError(f"Answer: after can't be negative, not {self.after}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An answer to deliver: its awakeable, value, delay, and name in error messages."""

    awakeable_id: str
    body: Resolution | Rejection
    after: timedelta
    what: str
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Taker:
    """What takes a task up: a function of the test (`threads` is None), or one of a worker."""

    function: TaskFunction
    threads: Threads | None = None

    @property
    def is_worker(self) -> bool:
        return self.threads is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingAwakeable:
    """A pending awakeable for which no answer is on its way.

    Attributes:
        id: Its ID, as sent to the outside, for example in a mail.
        deadline: When it times out.
        topic: The topic of its task; None if its ID was sent in another way.
    """

    id: str
    deadline: datetime | None
    topic: str | None
    outgoing: list[Delivery] = field(default_factory=list, repr=False, compare=False)

    def resolve(self, value: Any = None, *, after: timedelta = AT_ONCE) -> None:
        """Resolve it with a value: a model, any JSON value, or bytes."""
        self._give(Answer(value, after))

    def reject(
        self, reason: str, *, code: int = 400, details: Any = None, after: timedelta = AT_ONCE
    ) -> None:
        """Reject it."""
        self._give(Answer(Reject(reason, code=code, details=details), after))

    def _give(self, answer: Answer) -> None:
        what = f"the answer that on_wait gave to awakeable {self.id}"
        self.outgoing.append(
            Delivery(awakeable_id=self.id, body=body_of(answer.value), after=answer.after, what=what)
        )


def body_of(value: Any) -> Resolution | Rejection:
    """The outcome with which a value settles an awakeable.

    Raises:
        ValueError: JSON can't express the value.
    """
    if isinstance(value, Reject | TerminalError):
        return rejection_of(value)
    return codec_of_value(value).answer(value)


class Answers:
    """Finds the function that answers a task, and tracks which of the test's answers were used.

    Attributes:
        unused: The keys of `answers` that no task has used yet.
    """

    def __init__(self, answers: Mapping[str, Any], workers: Sequence[Worker]) -> None:
        """Read the signatures of the functions.

        Raises:
            DeclarationError: A function does not take exactly one Task.
        """
        self._own: dict[str, TaskFunction] = {}
        self.unused: set[str] = set()
        self._workers = list(workers)
        self._threads = _InTurn()
        for key, answer in answers.items():
            self.add(key, answer)

    def add(self, key: str, answer: Any) -> None:
        """Answer the tasks with this name or of this topic, in place of what answered them before.

        Raises:
            DeclarationError: It is a function that does not take exactly one Task.
        """
        function = answer if callable(answer) else functools.partial(_always, answer)
        self.unused.add(key)
        self._own[key] = TaskFunction(key, None, function, retry=DEFAULT_RETRY, serde=None)

    def add_worker(self, worker: Worker) -> None:
        """Let a worker do its tasks, too."""
        self._workers.append(worker)

    def takers(self, task: TaskRecord, topic: str) -> list[Taker]:
        """What answers a task: the test's own answer (by task before topic), or else workers.

        Raises:
            WrongAnswer: A worker that reads the topic would turn the task into a dead letter.
        """
        for key in (task.task, topic):
            if key is not None and key in self._own:
                self.unused.discard(key)
                return [Taker(self._own[key])]
        takers = []
        for worker in self._workers:
            function = worker.function_for(topic, task.task)
            if function is not None:
                takers.append(Taker(function, self._threads))
            elif topic in worker.topics:
                raise WrongAnswer(
                    f"worker {worker.name!r} reads {topic!r} and has no function for task {task.task!r}, "
                    "which would become a dead letter"
                )
        return takers

    @property
    def names(self) -> Set[str]:
        """The names and topics that the test's own answers are for."""
        return self._own.keys()

    def close(self) -> None:
        self._threads.close()


class _InTurn(Threads):
    """A worker's threads, limited to one at a time."""

    def __init__(self) -> None:
        super().__init__("testing", 1)
        self._pool = ThreadInTurn()


def _always(answer: Any, _task: Task[Any]) -> Any:
    return answer


async def answer_of(
    taker: Taker,
    record: TaskRecord,
    topic: str,
    headers: Mapping[str, str],
    beat: Callable[[Any], None],
) -> Delivery | None:
    """Call a function for its answer: the test's own runs here, a worker's as it does in the worker.

    Returns:
        None: There is no answer, since the function raised `TaskOver`.

    Raises:
        WrongAnswer: The payload does not fit.
        Exception: The function raised it, other than a rejection.
    """
    function, threads = taker.function, taker.threads
    what = f"the answer to the task on {topic!r} with awakeable {record.awakeable_id}"
    task = Task(
        payload=_payload(function, record, topic),
        awakeable_id=record.awakeable_id,
        deadline=record.deadline,
        headers=headers,
        name=record.task,
        topic=topic,
        event_id=record.event_id,
        _beat=beat,
    )
    try:
        result = await _result(function, task, threads)
        is_answer = threads is None and isinstance(result, Answer)
        answer = result if is_answer else Answer(result)
        if is_answer or (threads is None and isinstance(result, Reject | bytes)):
            body = body_of(answer.value)  # what the function is declared to return is the `Answer`
        else:
            body = result_of(function.result, result, by=repr(function), as_answer=True)
    except (Reject, TerminalError) as error:
        answer, body = Answer(), body_of(error)
    except TaskOver:
        return None
    except BaseException as error:
        error.add_note(f"raised in {what}")
        raise
    return Delivery(
        awakeable_id=record.awakeable_id,
        body=body,
        after=answer.after,
        what=what,
        trace=headers.get(TRACEPARENT),
    )


async def _result(function: TaskFunction, task: Task[Any], threads: Threads | None) -> Any:
    if threads is None:
        result = function.function(task)
        return await result if inspect.isawaitable(result) else result
    ended = await call(function.function, task, executor=threads)
    if isinstance(ended, Raised):
        raise ended.error
    return ended


def _payload(function: TaskFunction, record: TaskRecord, topic: str) -> Any:
    try:
        return function.payload.decode(bytes(record.payload))
    except Exception as error:  # a user's validator may raise anything
        raise WrongAnswer(
            f"the payload of a task on {topic!r} does not fit its function "
            f"{getattr(function.function, '__name__', function.function)!s}: {explain(error)}"
        ) from error
