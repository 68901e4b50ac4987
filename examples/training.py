"""A model is trained on a GPU that somebody else runs; if that worker dies, another one goes on where it was.

The worker reports each epoch with a heartbeat. Who is silent for two minutes is given up, and the job is
published again with the last progress. Nobody is hurried while the job waits in its topic: only a worker that
has begun can be silent. When the handler is cancelled, the worker learns it at its next heartbeat.

    awakeables dev training:app --worker training:trainer
    curl localhost:8080/models/train --json '{"dataset": "cats", "epochs": 5}'
    awakeables show prom_1…        # its last progress
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel, Field

from awakeables import App, Context, Service, Task, TerminalError, TimedOut, Worker

JOBS = "gpu-jobs"
SILENCE = timedelta(minutes=2)
PATIENCE = timedelta(hours=12)
MOST_WORKERS = 5
EPOCH_S = 1.0

models = Service("models")


class Dataset(BaseModel):
    dataset: str
    epochs: int = Field(gt=0)


class Checkpoint(BaseModel):
    epoch: int
    file: str


class Job(BaseModel):
    dataset: str
    epochs: int
    resume_from: Checkpoint | None = None


class Model(BaseModel):
    file: str
    epochs: int


@models.handler()
async def train(ctx: Context, wanted: Dataset) -> Model:
    reached: Checkpoint | None = None
    for _ in range(MOST_WORKERS):
        trained = ctx.awakeable(Model, timeout=PATIENCE, heartbeat_timeout=SILENCE)
        job = Job(dataset=wanted.dataset, epochs=wanted.epochs, resume_from=reached)
        ctx.publish(JOBS, job, awakeable=trained)
        try:
            return await trained
        except TimedOut as late:
            if late.kind != "heartbeat":
                raise
            reached = late.progress(Checkpoint) or reached
    raise TerminalError(f"{MOST_WORKERS} workers have fallen silent", code=504)


app = App("training", services=[models])

trainer = Worker("trainer", concurrency=1)


@trainer.task(JOBS)
async def train_on_gpu(task: Task[Job]) -> Model:
    job = task.payload
    first = 0 if job.resume_from is None else job.resume_from.epoch
    for epoch in range(first, job.epochs):
        await asyncio.sleep(EPOCH_S)  # here the GPU works
        file = f"{job.dataset}-{epoch + 1}.ckpt"
        # Raises TaskOver when nobody waits any more: the GPU is free for the next job.
        await task.heartbeat(Checkpoint(epoch=epoch + 1, file=file))
    return Model(file=f"{job.dataset}.model", epochs=job.epochs)
