"""What can be declared, and what is refused at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from awakeables.errors import DeclarationError
from awakeables.handlers.retry import RetryPolicy
from awakeables.worker.task import Reject, Task
from awakeables.worker.worker import Worker


class Order(BaseModel):
    order: str


async def pack(task: Task[Order]) -> str:
    return task.payload.order


def two_parameters(task: Task[Order], more: int) -> None: ...


def none_at_all() -> None: ...


def anything(*tasks: Task[Order]) -> None: ...


def keyword(*, task: Task[Order]) -> None: ...


def not_a_task(order: Order) -> None: ...


def not_a_type(task: Task[Nowhere]) -> None: ...  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize("function", [two_parameters, none_at_all, anything, keyword, not_a_task, not_a_type])
def test_a_function_that_does_not_take_exactly_one_task_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(DeclarationError, match=function.__name__):
        Worker("packer").task("tasks")(function)


def test_two_functions_for_one_task_are_refused_by_their_names() -> None:
    worker = Worker("packer")
    worker.task("tasks", "pack")(pack)
    with pytest.raises(DeclarationError, match="two functions for task tasks/pack: pack and pack"):
        worker.task("tasks", "pack")(pack)


def test_two_functions_without_a_name_are_refused_for_one_topic_only() -> None:
    worker = Worker("packer")
    worker.task("tasks")(pack)
    worker.task("other-tasks")(pack)
    with pytest.raises(DeclarationError, match=r"tasks/\*"):
        worker.task("tasks")(pack)


@pytest.mark.parametrize("name", ["", "two words", "-dash", "ä", "a" * 101])
def test_a_name_that_no_group_can_have_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="worker"):
        Worker(name)


@pytest.mark.parametrize("topic", ["", "two words", "..", "ä", "a" * 250])
def test_a_topic_that_kafka_would_refuse_is_refused(topic: str) -> None:
    with pytest.raises(DeclarationError, match="is not a valid name for a topic"):
        Worker("packer").task(topic)


def test_a_function_that_is_declared_without_parentheses_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"worker 'packer': .* not <function pack.*@worker\.task\("):
        Worker("packer").task(pack)  # type: ignore[arg-type]


def test_an_empty_task_name_is_refused() -> None:
    with pytest.raises(DeclarationError, match="can't be empty"):
        Worker("packer").task("tasks", "")


def test_a_worker_that_may_do_nothing_at_once_is_refused() -> None:
    with pytest.raises(DeclarationError, match="concurrency"):
        Worker("packer", concurrency=0)


def test_the_function_is_returned_unchanged() -> None:
    assert Worker("packer").task("tasks")(pack) is pack


def test_a_function_without_a_name_takes_what_no_named_one_does() -> None:
    worker = Worker("packer")
    worker.task("tasks", "pack")(pack)
    worker.task("tasks")(lambda task: None)

    def taker(name: str | None, topic: str = "tasks") -> str | None:
        found = worker.function_for(topic, name)
        return None if found is None else repr(found)

    assert taker("pack") == "<task tasks/pack>"
    assert taker("ship") == "<task tasks/*>"
    assert taker(None) == "<task tasks/*>"
    assert taker("pack", "elsewhere") is None


def test_a_worker_reads_the_topics_of_its_functions() -> None:
    worker = Worker("packer")
    worker.task("a")(pack)
    worker.task("a", "b")(pack)
    worker.task("c", "b")(pack)
    assert worker.topics == {"a", "c"}


def test_a_function_may_have_a_retry_policy_of_its_own() -> None:
    mine, theirs = RetryPolicy(max_attempts=1), RetryPolicy(max_attempts=2)
    worker = Worker("packer", retry=theirs)
    worker.task("tasks", "a", retry=mine)(pack)
    worker.task("tasks", "b")(pack)
    assert [function.retry for function in worker.functions.values()] == [mine, theirs]


def test_objects_and_partials_can_be_functions() -> None:
    class Packer:
        async def __call__(self, task: Task[Order]) -> None: ...

    def priced(price: int, task: Task[Order]) -> None: ...

    worker = Worker("packer")
    worker.task("tasks", "object")(Packer())
    worker.task("tasks", "partial")(partial(priced, 5))
    assert [function.is_async for function in worker.functions.values()] == [True, False]


def test_declaring_a_worker_loads_no_driver_and_no_store() -> None:
    heavy = "aiokafka, sqlite3, starlette, uvicorn, awakeables.engine, awakeables.store, awakeables.web"
    program = (
        "import sys, awakeables.worker.worker, awakeables.worker.loop\n"
        f"print([name for name in {heavy.split(', ')!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_rejection_shows_all_that_it_says() -> None:
    assert repr(Reject("no", code=409, details=[1])) == "Reject('no', code=409, details=[1])"


def test_case_w2_a_task_topic_has_room_for_the_name_of_its_dead_letters() -> None:
    Worker("packer").task("t" * 245)(pack)
    with pytest.raises(DeclarationError, match=r"dead-letter topic, `\.dlq`: use 1 to 245"):
        Worker("packer").task("t" * 246)(pack)
