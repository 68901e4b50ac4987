"""Heartbeats of one task: the newest is sent, at most three in the time after which it counts as silent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextvars import copy_context
from datetime import datetime
from typing import Any, TypeAlias

from awakeables.core.awakeables import MAX_PROGRESS_BYTES
from awakeables.core.revocations import OverState
from awakeables.core.topics import is_topic_name
from awakeables.errors import OperatorError
from awakeables.handlers.serde import codec_of_value, explain

OverReason: TypeAlias = OverState
"""Why nobody waits any more."""

PER_TIMEOUT = 3
"""How many heartbeats are sent in the time after which the worker counts as silent."""

UNWATCHED_S = 5.0
"""The shortest time between two heartbeats of a task for which nobody expects any."""

LEAST_S = 0.1
"""The shortest time between two heartbeats of any task."""

_A_DURATION = re.compile("[1-9][0-9]{0,14}")


class TaskOver(Exception):
    """Raised by `Task.heartbeat`: nobody waits for the answer any more.

    A worker's function may clean up, and should end. Uncaught it ends the task, without an answer.

    Attributes:
        reason: Why: the awakeable was cancelled, or has timed out.
    """

    def __init__(self, reason: OverReason) -> None:
        super().__init__(f"nobody waits for the answer any more: the awakeable is {reason}")
        self.reason = reason


class Heart:
    """Sends the heartbeats of one task, while its function runs on the loop or in a thread."""

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        over: Callable[[], OverReason | None],
        *,
        timeout_s: float | None,
        keepalive: bool,
    ) -> None:
        """Begin; nothing is sent before `open`, or the first heartbeat.

        Args:
            send: Sends a heartbeat with its progress, JSON text.
            over: Why nobody waits any more; None: somebody does.
            timeout_s: After what time the worker counts as silent; None: never.
            keepalive: Send heartbeats although the function makes none.
        """
        self._send = send
        self._over = over
        self._interval_s = UNWATCHED_S if timeout_s is None else max(LEAST_S, timeout_s / PER_TIMEOUT)
        self._is_watched = timeout_s is not None
        self._keepalive = keepalive and timeout_s is not None
        self._loop = asyncio.get_running_loop()
        self._variables = copy_context()  # what is sent is not a part of the function that makes heartbeats
        self._made = asyncio.Event()
        self._progress = b"null"
        self._unsent = False
        self._beating: asyncio.Task[None] | None = None
        self._closed = False

    def open(self) -> None:
        """Say that somebody has taken the task up, if that is expected."""
        if self._is_watched:
            self._on_beat()

    async def close(self) -> None:
        """Send what was made last, and end; heartbeats made from now on are for nobody."""
        self._closed = True
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})
        if self._unsent:
            await self._send_last()

    def beat(self, progress: Any) -> None:
        """Make a heartbeat; called in any thread.

        Raises:
            TaskOver: Nobody waits for the answer any more.
            ValueError: JSON can't express the progress, or it is too large.
        """
        reason = self._over()
        if reason is not None:
            raise TaskOver(reason)
        if progress is not None:
            self._progress = progress_text(progress)
        self._unsent = True
        self._loop.call_soon_threadsafe(self._on_beat, context=self._variables)

    def _on_beat(self) -> None:
        self._made.set()
        if self._beating is None and not self._closed:
            self._beating = asyncio.ensure_future(self._send_all())

    async def _send_all(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            if not self._keepalive:
                await self._made.wait()
            self._made.clear()
            await self._send_last()
            await asyncio.sleep(self._interval_s)

    async def _send_last(self) -> None:
        self._unsent = False
        try:
            await self._send(self._progress)
        except OperatorError:
            pass  # the broker is out of reach; the next one may get through
        except asyncio.CancelledError:
            self._unsent = True  # `close` sends it again
            raise


class Beat:
    """What `Task.heartbeat` returns: it was made; awaiting it gives the event loop a turn."""

    def __await__(self) -> Generator[Any, Any, None]:
        return asyncio.sleep(0).__await__()


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """After how many seconds without a heartbeat a task's worker counts as silent; None: never."""
    text = headers.get("awakeable-heartbeat-ms", "")
    return int(text) / 1000 if _A_DURATION.fullmatch(text) else None


def revocations_of(headers: Mapping[str, str]) -> str | None:
    """The topic that says when nobody waits for a task any more; None: nothing does."""
    topic = headers.get("awakeable-revocations", "")
    return topic if topic.endswith(".revocations") and is_topic_name(topic) else None


def is_late(deadline: datetime | None, at_ms: int) -> bool:
    """Whether the deadline of a task has passed at an instant."""
    return deadline is not None and deadline.timestamp() * 1000 <= at_ms


def progress_text(progress: Any) -> bytes:
    """The progress of a heartbeat as JSON.

    Raises:
        ValueError: JSON can't express it, or it is too large.
    """
    try:
        answer = codec_of_value(progress).answer(progress)
    except Exception as error:  # a user's serializer may raise anything
        raise ValueError(f"the progress can't be sent: {explain(error)}") from error
    if not answer.is_json:
        raise ValueError("the progress can't be sent: it must be JSON, not bytes")
    size = len(answer.content)
    if size > MAX_PROGRESS_BYTES:
        raise ValueError(f"the progress has {size:,} bytes; at most {MAX_PROGRESS_BYTES:,} can be sent")
    return answer.content
