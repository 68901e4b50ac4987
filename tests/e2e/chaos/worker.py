"""A worker that is killed: it answers rightly, twice, in two minds, slowly, over HTTP, or says no.

`python -m e2e.chaos.worker SIDE`. What it is about to send is in the ledger before it is sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
import zlib
from datetime import timedelta
from functools import cache

import httpx
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from awakeables import Reject, Task, TaskOver, Worker
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.worker import WorkerRunner
from awakeables.world import SystemClock
from e2e.chaos.ledger import ledger_of_this_process
from e2e.chaos.questions import NAME, Answer, Progress, Question, topic

BEAT_S = 0.2

ledger = ledger_of_this_process()
connection = KafkaConnection(
    bootstrap=os.environ["AWAKEABLES_KAFKA"],
    client_id="chaos-worker",
    session_timeout=timedelta(seconds=float(os.environ["CHAOS_SESSION_S"])),
)


def worker_of(side: str) -> Worker:
    worker = Worker(f"{NAME}-{side}", concurrency=64)

    @worker.task(topic(side))
    async def answer(task: Task[Question]) -> Answer:
        question = task.payload
        await asyncio.sleep(question.takes_s)
        for _ in range(question.beats):
            await beat(task)
        if question.silent:
            raise TaskOver("timed-out")  # no answer, as if it had died
        if question.manner == "refuses":
            reason = f"no, says {uuid.uuid4().hex}"
            ledger.write("sent", id=task.awakeable_id, reason=reason)
            raise Reject(reason, code=409)
        chosen = new_answer(task)
        if question.manner == "twice":
            await send_aside(task, chosen)
        elif question.manner == "two minds":
            await send_aside(task, new_answer(task))
        elif question.manner == "by http":
            await resolve_by_http(task, chosen)
        return chosen

    return worker


async def beat(task: Task[Question]) -> None:
    progress = Progress(nonce=uuid.uuid4().hex)
    ledger.write("beat", id=task.awakeable_id, progress=progress.model_dump())
    await task.heartbeat(progress)
    await asyncio.sleep(BEAT_S)


def new_answer(task: Task[Question]) -> Answer:
    """Right, and unlike any other; in the ledger from now on."""
    answer = Answer(double=2 * task.payload.n, nonce=uuid.uuid4().hex)
    ledger.write("sent", id=task.awakeable_id, answer=answer.model_dump())
    return answer


@cache
def producer() -> asyncio.Task[AIOKafkaProducer]:
    async def started() -> AIOKafkaProducer:
        made = AIOKafkaProducer(bootstrap_servers=connection.bootstrap, enable_idempotence=True)
        await made.start()
        return made

    return asyncio.get_running_loop().create_task(started())


async def send_aside(task: Task[Question], answer: Answer) -> None:
    """Beside the SDK, which sends only one."""
    value = {"awakeable_id": task.awakeable_id, "status": "resolved", "value": answer.model_dump()}
    record = (task.headers["awakeable-reply-to"], json.dumps(value).encode())
    while True:
        sender = producer()
        try:
            await (await asyncio.shield(sender)).send_and_wait(*record, key=task.awakeable_id.encode())
            return
        except (KafkaError, OSError):
            # After a restart of the broker it may refuse whatever this producer sends.
            if producer() is sender:
                producer.cache_clear()
            await asyncio.sleep(0.1)


async def resolve_by_http(task: Task[Question], answer: Answer) -> None:
    """Ask until it is told a verdict, and write down which."""
    urls = os.environ["CHAOS_URLS"].split(",")
    first = zlib.crc32(task.awakeable_id.encode())  # a number, so that either instance is asked first
    async with httpx.AsyncClient(timeout=5) as http:
        for number in range(100):
            url = f"{urls[(first + number) % len(urls)]}/restate/awakeables/{task.awakeable_id}/resolve"
            ledger.write("http", id=task.awakeable_id)
            try:
                told = await http.post(url, json=answer.model_dump())
            except httpx.TransportError:
                told = None
            if told is not None and told.status_code < 500:
                verdict = told.json()["verdict"]
                ledger.write("told", id=task.awakeable_id, answer=answer.model_dump(), verdict=verdict)
                return
            await asyncio.sleep(0.1)


async def main(side: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ledger.write("worker", side=side)
    await WorkerRunner(worker_of(side), connection, clock=SystemClock()).run(stop)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
