"""Declarations: a worker and its functions. Importing them loads no driver and starts nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from awakeables.core.texts import excerpt
from awakeables.core.topics import is_task_topic_name
from awakeables.errors import DeclarationError
from awakeables.handlers.calls import is_async
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import Codec, Serde, codec_for
from awakeables.worker.task import Task

F = TypeVar("F", bound=Callable[[Task[Any]], Any])

DEFAULT_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), max_interval=timedelta(seconds=30), max_attempts=5
)
"""Half a second, one, two, four: a worker holds a slot for 7.5 s for a task that keeps failing."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_POSITIONAL = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


class TaskFunction:
    """A function that does tasks, and how its payload is read and its result written.

    Attributes:
        name: The task name that it takes; None: all names without a function of their own.
        is_async: It is awaited on the event loop; any other runs in a thread.
        keepalive: Heartbeats are sent while it runs, although it makes none.
    """

    def __init__(
        self,
        topic: str,
        name: str | None,
        function: Callable[[Task[Any]], Any],
        *,
        retry: RetryPolicy,
        serde: Serde[Any] | None,
        keepalive: bool = False,
    ) -> None:
        """Read the function's signature.

        Raises:
            DeclarationError: It does not take exactly one Task.
        """
        self.topic = topic
        self.name = name
        self.function = function
        self.retry = retry
        self.keepalive = keepalive
        self.is_async = is_async(function)
        where = f"task {topic}/{name or '*'} ({getattr(function, '__name__', function)!s})"
        parameter = _only_parameter(function, where)
        hints = _hints(function, where)
        try:
            self.payload: Codec[Any] = codec_for(_payload_type(hints.get(parameter), where))
            self.result: Codec[Any] = codec_for(_result_type(hints.get("return", Any)), serde)
        except TypeError as error:
            raise DeclarationError(f"{where}: {error}") from error
        if self.result.unanswerable is not None:
            raise DeclarationError(f"{where}: its result can't be sent: {self.result.unanswerable}")

    def __repr__(self) -> str:
        return f"<task {self.topic}/{self.name or '*'}>"


class Worker:
    """A named set of functions that do tasks.

    Attributes:
        name: Also the consumer group: all processes with one name share the work. A new group
            begins at the earliest record.
        concurrency: How many tasks run at once in one process, over all topics.
    """

    def __init__(self, name: str, *, concurrency: int = 16, retry: RetryPolicy = DEFAULT_RETRY) -> None:
        """Begin without functions.

        Raises:
            DeclarationError: The name can't be a consumer group's, or nothing may run.
        """
        if not _NAME.fullmatch(name):
            raise DeclarationError(
                f"worker {name!r}: a name has letters, digits, '.', '_' and '-', begins with a letter or "
                "digit, and has at most 100 characters"
            )
        if concurrency < 1:
            raise DeclarationError(f"worker {name!r}: concurrency must be at least 1, not {concurrency}")
        self.name = name
        self.concurrency = concurrency
        self.retry = retry
        self.functions: dict[tuple[str, str | None], TaskFunction] = {}

    def task(
        self,
        topic: str,
        name: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        serde: Serde[Any] | None = None,
        keepalive: bool = False,
    ) -> Callable[[F], F]:
        """Declare a function `(task: Task[X]) -> Y` that does the tasks of a topic.

        Returning resolves the awakeable; `raise Reject(…)` rejects it; after any other error the
        function is called again, and when `retry` gives up, the awakeable is rejected with code
        500. An `async` function runs on the event loop, any other in a thread. The function is
        returned unchanged.

        Args:
            topic: The task topic.
            name: The task name that it takes; None: all names without a function of their own.
            retry: For this function only; by default the worker's.
            serde: How the result is written: that of the awakeable, if that has one. Without it a
                result annotated as `bytes` is sent as raw bytes, any other as JSON.
            keepalive: Send heartbeats while the function runs, if the handler expects some. That says that
                the process lives, not that the work gets on: `Task.heartbeat` says that.

        Raises:
            DeclarationError: There is a function for this topic and name, a name is invalid, or
                the function does not take exactly one Task.
        """
        if not isinstance(topic, str):
            raise DeclarationError(
                f"worker {self.name!r}: a topic's name must be a string, not {excerpt(topic)}; pass it in "
                'parentheses: @worker.task("topic")'
            )
        if not is_task_topic_name(topic):
            raise DeclarationError(
                f"worker {self.name!r}: {topic!r} is not a valid name for a topic with a dead-letter "
                "topic, `.dlq`: use 1 to 245 letters, digits, '.', '_' and '-'"
            )
        if name is not None and not name:
            raise DeclarationError(f"worker {self.name!r}: a task's name can't be empty; leave it out")

        def declare(function: F) -> F:
            if (topic, name) in self.functions:
                other = self.functions[topic, name].function
                raise DeclarationError(
                    f"worker {self.name!r} has two functions for task {topic}/{name or '*'}: "
                    f"{_called(other)} and {_called(function)}"
                )
            self.functions[topic, name] = TaskFunction(
                topic, name, function, retry=retry or self.retry, serde=serde, keepalive=keepalive
            )
            return function

        return declare

    @property
    def topics(self) -> frozenset[str]:
        """The topics that it reads."""
        return frozenset(topic for topic, _ in self.functions)

    def function_for(self, topic: str, name: str | None) -> TaskFunction | None:
        """The function that takes a task; None if there is none."""
        return self.functions.get((topic, name)) or self.functions.get((topic, None))


def _called(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))


def _only_parameter(function: Callable[..., Any], where: str) -> str:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 1 or parameters[0].kind not in _POSITIONAL:
        raise DeclarationError(f"{where}: it must take exactly one parameter, a Task")
    return parameters[0].name


def _hints(function: Callable[..., Any], where: str) -> dict[str, Any]:
    annotated = function if inspect.isroutine(function) else type(function).__call__
    try:
        return get_type_hints(annotated, include_extras=True)
    except NameError as error:
        raise DeclarationError(f"{where}: a type in its signature can't be resolved: {error}") from error


def _payload_type(annotation: Any, where: str) -> Any:
    if annotation is None or annotation is Any or annotation is Task:
        return Any
    if get_origin(annotation) is not Task:
        raise DeclarationError(f"{where}: its parameter must be a Task[…], not {annotation!r}")
    (payload,) = get_args(annotation)
    return Any if isinstance(payload, TypeVar) else payload


def _result_type(annotation: Any) -> Any:
    """The result's type by its annotation; a plain function may return an awaitable of it."""
    if get_origin(annotation) in {Awaitable, Coroutine}:
        return get_args(annotation)[-1]
    return annotation
