"""A worker as a process: python -m support.worker_process BOOTSTRAP TOPIC GROUP [gated]

It answers with what it was given. Gated, a task says `begun` on stdout and ends with a line on stdin.
SIGTERM stops it, as the CLI does; it then says `draining`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import timedelta
from typing import Any

import structlog

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.worker import WorkerRunner, WorkerSettings
from awakeables.worker.loop import LoopSettings
from awakeables.worker.replies import ReplyTopics
from awakeables.worker.task import Task
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock

SESSION = timedelta(seconds=6)
"""The shortest that Kafka allows: so long a killed member keeps its partitions."""


def say(word: str) -> None:
    print(word, flush=True)


async def run(bootstrap: str, topic: str, group: str, *, gated: bool) -> None:
    worker, stop = Worker(group, concurrency=64), asyncio.Event()

    def obey() -> None:
        stop.set()
        say("draining")

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, obey)

    if gated:

        @worker.task(topic)
        def wait(task: Task[Any]) -> Any:
            say("begun")
            sys.stdin.readline()
            return task.payload

    else:

        @worker.task(topic)
        async def answer(task: Task[dict[str, int]]) -> Any:
            # Work that ends in another order than it was begun: up to 60 ms of it.
            await asyncio.sleep(task.payload["number"] % 7 / 100)
            return task.payload

    connection = KafkaConnection(bootstrap=bootstrap, fetch_max_wait_ms=20, session_timeout=SESSION)
    settings = WorkerSettings(
        commit_interval=timedelta(milliseconds=20), loop=LoopSettings(reply_topics=ReplyTopics("*"))
    )
    await WorkerRunner(worker, connection, clock=SystemClock(), settings=settings).run(stop)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # stdout is ours
    asyncio.run(run(*sys.argv[1:4], gated=sys.argv[4:] == ["gated"]))
