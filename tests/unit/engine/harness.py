"""What the tests of the engine say again and again: handlers, settings, records, results."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from awakeables import Context
from awakeables.core.awakeables import Completion
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.testing.bench import Bench, Process, quick, until
from awakeables.wire.completions import encode_completion

TOPIC = "shop.completions"
LIVE = quick(linger=timedelta(seconds=30))
BOTH = pytest.mark.parametrize("settings", [quick(), LIVE], ids=["suspended", "live"])
"""Whether the handler is still in memory when its answer comes, or not."""


class Wide(BaseModel):
    weight: int


async def wait(ctx: Context) -> Any:
    """A handler that has a parcel packed; its weight."""
    awakeable = ctx.awakeable(Wide)
    ctx.publish("pack", 1, awakeable=awakeable)
    return (await awakeable).weight


def resolution(awakeable_id: str, text: bytes = b'{"weight":7}') -> bytes:
    """A record that resolves an awakeable."""
    return encode_completion(Completion(awakeable_id=awakeable_id, body=Resolution.of_json(text), source=""))


def failed(row: Invocation) -> Rejection:
    assert isinstance(row.result, Rejection), row
    return row.result


def value(row: Invocation) -> Any:
    assert isinstance(row.result, Resolution), row
    return msgspec.json.decode(row.result.content)


async def heartbeats_unanswered(bench: Bench, process: Process) -> asyncio.Event:
    """Leave heartbeats without an answer until the event is set; return once the process may be dead."""
    membership: Any = bench.store.membership
    beat, acknowledged = membership.beat, asyncio.Event()

    async def late(*args: Any, **kwargs: Any) -> Any:
        await acknowledged.wait()
        return await beat(*args, **kwargs)

    membership.beat = late
    await until(lambda: not process.engine.member.is_sure(), "it may be dead")
    return acknowledged
