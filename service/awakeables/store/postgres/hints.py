"""Hints between instances by NOTIFY, which is never part of a transaction that writes rows.

A NOTIFY in a transaction holds a lock of the whole server from its commit on, until the commit is on disk,
so that commits no longer share a flush. Here one connection sends what a few milliseconds have gathered,
and another one listens. A listener whose connection is dead without a word is noticed by a probe.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec
import structlog

from awakeables.core.instances import Hint
from awakeables.errors import StoreUnavailable
from awakeables.store.postgres.connection import Connection, Database, Session
from awakeables.store.postgres.errors import translated
from awakeables.store.postgres.queries import QUERIES
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

GATHER_S = 0.005
"""For how long hints are gathered before they are sent together."""

MOST_AT_ONCE = 40
"""Hints in one payload, which PostgreSQL bounds at 8,000 bytes; one has about 150."""

MOST_WAITING = 10_000
"""More hints than these are dropped: sweeps find what they were about."""

PROBE_S = 10.0
ECHO_S = 3.0
"""A listener that does not hear itself for this long is dead."""

RECONNECT_S = 1.0
"""Fixed: it is one attempt by one connection per instance, and sweeps find what hints would have said."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Hint]).decode


class PostgresHints:
    """`ports.Hints` by LISTEN and NOTIFY, on two connections of their own."""

    def __init__(self, database: Database) -> None:
        """Do not connect yet: sending and listening do.

        Args:
            database: Where to. Behind a pooler nobody can listen: nothing is sent, and sweeps find all.
        """
        self._database = database
        self._where = database.where
        self._sender = Session(database, "beater")
        self._waiting: dict[str, list[Hint]] = defaultdict(list)
        self._count = 0
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._instance_id = ""
        self._on_hints: Callable[[Sequence[Hint]], None] = lambda _hints: None
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """Connect the sender."""
        await self._sender.open()

    async def close(self) -> None:
        """Stop listening; what is not sent yet is lost."""
        tasks = [task for task in (self._listening, self._sending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sender.close()

    def send(self, instance_id: str, hint: Hint) -> None:
        if self._count >= MOST_WAITING or self._database.pooled:
            return
        self._waiting[instance_id].append(hint)
        self._count += 1
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="hints")

    def listen(self, instance_id: str, on_hints: Callable[[Sequence[Hint]], None]) -> None:
        self._instance_id, self._on_hints = instance_id, on_hints
        self._changed.set()
        if self._listening is None and not self._database.pooled:
            self._listening = asyncio.create_task(self._keep_listening(), name="hints-listener")

    async def _send(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            waiting, self._waiting, self._count = self._waiting, defaultdict(list), 0
            channels: list[str] = []
            payloads: list[str] = []
            for instance_id, hints in waiting.items():
                for first in range(0, len(hints), MOST_AT_ONCE):
                    channels.append(_channel(instance_id))
                    payloads.append(_encode(hints[first : first + MOST_AT_ONCE]).decode())
            try:
                await self._notify(channels, payloads)
            except StoreUnavailable:
                return  # they are lost

    async def _notify(self, channels: Sequence[str], payloads: Sequence[str]) -> None:
        await self._sender.run(lambda connection: connection.execute(QUERIES["notify"], channels, payloads))

    async def _keep_listening(self) -> None:
        is_down = False
        while True:
            try:
                connection = await self._database.connect("beater")
                try:
                    is_down = is_down and bool(log.info(events.LISTENING_AGAIN))
                    await self._listen(connection)
                finally:
                    connection.terminate()
            except Exception as error:
                promised = translated(error, self._where)
                if not is_down:
                    log.warning(events.NOT_LISTENING, error=str(promised) or type(error).__name__)
                is_down = True
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self, connection: Connection) -> None:
        """Listen until the connection fails or falls silent."""
        heard = asyncio.Event()

        def on_notify(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            if payload:
                self._on_hints(_decode(str(payload)))
            else:
                heard.set()

        while True:
            self._changed.clear()
            channel = _channel(self._instance_id)
            await connection.add_listener(channel, on_notify)
            self._on_hints([])  # some may have been lost while nobody listened
            while not await _is_set(self._changed, PROBE_S):
                heard.clear()
                await self._notify([channel], [""])
                if not await _is_set(heard, ECHO_S):
                    raise StoreUnavailable(f"{self._where}: no echo of a notification for {ECHO_S:.0f} s")


def _channel(instance_id: str) -> str:
    return f"awakeables_{instance_id}"


async def _is_set(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
