"""An app and a worker whose functions fork, exit and swallow what they can."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import sys
import time
from typing import Any

from awakeables import App, Context, Service, Task, Worker

service = Service("forks")
worker = Worker("forker")


def pooled() -> list[int]:
    """Ends its children by SIGTERM, as `Pool.terminate` does."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.map(abs, [-1, -2])


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked() -> int:
    """The exit status of a child that would come back from here."""
    pid = os.fork()
    if pid == 0:
        sys.exit(3)
    return status_of(pid)


async def forked_on_the_loop() -> int:
    pid = os.fork()
    return 0 if pid == 0 else await asyncio.to_thread(status_of, pid)


def orphaned() -> int:
    """A child that outlives its parent."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


ACTIONS: dict[str, Any] = {
    "pooled": pooled,
    "forked": forked,
    "forked_on_the_loop": forked_on_the_loop,
    "orphaned": orphaned,
}


@service.handler()
async def act(ctx: Context, action: str) -> Any:
    return await ctx.run(action, ACTIONS[action])


@service.handler()
async def ask(ctx: Context) -> Any:
    answer = ctx.awakeable()
    ctx.publish("forking-requests", None, awakeable=answer)
    return await answer


@service.handler()
async def loop(ctx: Context) -> Any:
    answer = ctx.awakeable()
    while True:
        with contextlib.suppress(BaseException):
            return await answer


@worker.task("forking-requests")
def fork(task: Task[Any]) -> list[Any]:
    return [pooled(), forked()]


app = App("forking", services=[service])
