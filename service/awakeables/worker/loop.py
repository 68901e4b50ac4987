"""The loop of a worker: receives records, runs them concurrently, answers, drains."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, assert_never

import structlog

from awakeables.errors import (
    BrokerRefused,
    BrokerUnavailable,
    OperatorError,
    PublishRefused,
    TopicMissing,
)
from awakeables.ports import Clock
from awakeables.telemetry import events
from awakeables.telemetry.metrics import WorkerMetrics
from awakeables.telemetry.vocabulary import TaskEnd
from awakeables.worker.deadletters import without_value
from awakeables.worker.port import Incoming, Outgoing, TaskPort
from awakeables.worker.process import Answered, DeadLettered, PastDeadline, Processor, Unfinished, end_of
from awakeables.worker.replies import ANY_COMPLETIONS, ReplyTopics
from awakeables.worker.threads import Threads
from awakeables.worker.worker import Worker

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans

log = structlog.stdlib.get_logger(__name__)

SIGN_OF_LIFE_S = 1.0
"""While all slots are taken, the port is polled this often, so that the group sees the member as alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How the loop behaves.

    Attributes:
        drain_timeout: Tasks that still run this long after the stop are left to the next worker. It must
            be shorter than the grace period before SIGKILL.
        reply_topics: The topics that answers may be sent to.
    """

    drain_timeout: timedelta = timedelta(seconds=30)
    reply_topics: ReplyTopics = ANY_COMPLETIONS


class WorkerLoop:
    """Runs a worker on a port, until it is stopped.

    A record occupies a slot from its receipt to its acknowledgement, back-off included, so that neither a
    slow function nor an unavailable broker piles up work in memory.
    """

    def __init__(
        self,
        worker: Worker,
        port: TaskPort,
        *,
        clock: Clock,
        settings: LoopSettings | None = None,
        metrics: WorkerMetrics | None = None,
        spans: Spans | None = None,
    ) -> None:
        self._worker = worker
        self._port = port
        self._clock = clock
        self._settings = settings or LoopSettings()
        self._metrics = metrics or WorkerMetrics()
        self._metrics.running.set_function(lambda: len(self._running))
        self._threads = Threads(worker.name, worker.concurrency)
        self._processor = Processor(
            worker,
            clock=clock,
            threads=self._threads,
            pause=self._pause,
            port=port,
            reply_topics=self._settings.reply_topics,
            spans=spans,
        )
        self._running: dict[tuple[str, int, int, int], asyncio.Task[None]] = {}
        self._slot_freed = asyncio.Event()
        self._draining = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish running tasks, up to `drain_timeout`."""
        try:
            async with asyncio.TaskGroup() as children:
                fetching = children.create_task(self._fetch(children))
                await stop.wait()
                self._draining.set()
                self._port.drain()
                log.info(events.WORKER_DRAINING, worker=self._worker.name, running=len(self._running))
                await self._finish()
                fetching.cancel()
        finally:
            self._threads.close()

    async def _fetch(self, children: asyncio.TaskGroup) -> None:
        while not self._draining.is_set():
            free = self._worker.concurrency - len(self._running)
            if free <= 0:
                free = await self._free_slots()
            for record in await self._port.receive(free):
                if self._draining.is_set():
                    return
                key = (record.topic, record.partition, record.offset, record.timestamp_ms)
                # After a rebalance a record can arrive again while it is being processed: skip it.
                if key not in self._running:
                    self._running[key] = children.create_task(self._do(key, record))

    async def _free_slots(self) -> int:
        self._slot_freed.clear()
        try:
            async with asyncio.timeout(SIGN_OF_LIFE_S):
                await self._slot_freed.wait()
        except TimeoutError:
            return 0
        return self._worker.concurrency - len(self._running)

    async def _do(self, key: tuple[str, int, int, int], record: Incoming) -> None:
        began = self._clock.monotonic()
        end: TaskEnd = "left"
        try:
            fate = await self._processor.process(record)
            match fate:
                case Answered():
                    await self._send_answer(record, fate)
                case DeadLettered():
                    await self._set_aside(fate.message)
                    await self._report(record, fate)
                case PastDeadline():
                    pass
                case Unfinished():
                    return
                case _:
                    assert_never(fate)
            end = end_of(fate)
            self._port.acknowledge(record)
        except BrokerUnavailable as error:
            # Raised only while the port drains: the next worker receives the record again.
            log.warning(
                events.TASK_LEFT,
                worker=self._worker.name,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                reason=str(error),
            )
        finally:
            self._metrics.task(record.topic, end, self._clock.monotonic() - began)
            del self._running[key]
            self._slot_freed.set()

    async def _send_answer(self, record: Incoming, answered: Answered) -> None:
        try:
            try:
                await self._port.send(answered.message)
            except PublishRefused as error:
                await self._port.send(self._processor.too_large(answered, str(error)).message)
        except (PublishRefused, TopicMissing, BrokerRefused) as error:
            letter = self._processor.give_up(record, "unanswerable", str(error))
            await self._set_aside(letter.message)

    async def _set_aside(self, letter: Outgoing) -> None:
        try:
            try:
                await self._port.send(letter)
            except PublishRefused as error:
                await self._port.send(without_value(letter, str(error)))
        except PublishRefused as error:
            # Not even the headers fit. The record stays in its topic until retention deletes it.
            log.error(events.EFFECT_REFUSED, worker=self._worker.name, topic=letter.topic, reason=str(error))

    async def _report(self, record: Incoming, fate: DeadLettered) -> None:
        """Report to the service that the task is a dead letter; the copy is already on its topic."""
        problem: OperatorError | None = None
        for report in fate.reports:
            try:
                return await self._port.send(report)
            except PublishRefused as error:
                problem = error
            except (TopicMissing, BrokerRefused) as error:
                problem = error
                break
        if problem is not None:
            log.error(
                events.EFFECT_REFUSED,
                worker=self._worker.name,
                topic=fate.reports[0].topic,
                awakeable_id=(fate.reports[0].key or b"").decode(),
                reason=f"the dead letter {record.topic}:{record.partition}:{record.offset} is not reported: "
                f"{problem}",
            )

    async def _pause(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        except TimeoutError:
            return True
        return False

    async def _finish(self) -> None:
        running = list(self._running.values())
        if not running:
            return
        _, left = await asyncio.wait(running, timeout=self._settings.drain_timeout.total_seconds())
        if left:
            log.warning(events.DRAIN_INCOMPLETE, worker=self._worker.name, tasks=len(left))
        for task in left:
            task.cancel()
