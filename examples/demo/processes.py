"""Real processes: started, killed, started again, and ended in order whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLI = Path(sys.executable).with_name("awakeables")
DRAIN_S = 10.0
"""What a process gets after SIGTERM before it is killed."""


class Child:
    """One `awakeables …` process at a time; its output goes to a file."""

    def __init__(self, name: str, *arguments: str, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._arguments = arguments
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        # A session of its own: Ctrl-C comes to us alone, and we end the others in order.
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                CLI,
                *self._arguments,
                cwd=ROOT,
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def kill(self) -> int:
        """`kill -9`; the exit status, which is -9."""
        process = self._running()
        process.kill()
        return await process.wait()

    async def stop(self) -> int | None:
        """SIGTERM, and SIGKILL if that is not obeyed; the exit status."""
        process = self._process
        if process is None:
            return None
        if process.returncode is not None:
            return process.returncode
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(DRAIN_S):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def last_words(self, count: int = 25) -> list[str]:
        """The end of its log."""
        return self.log.read_text(errors="replace").splitlines()[-count:] if self.log.exists() else []

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process


@asynccontextmanager
async def ended_in_order(*children: Child) -> AsyncIterator[None]:
    """On leaving, however that comes: stop them, the last one first."""
    async with AsyncExitStack() as stack:
        for child in children:
            stack.push_async_callback(child.stop)
        yield


def free_port(*, preferred: int) -> int:
    """The preferred port of this machine, if nobody listens there, or any other."""
    with socket.socket() as probe:
        if not _is_answered(preferred):
            try:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", preferred))
            except OSError:
                pass
            else:
                return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_answered(port: int) -> bool:
    """Also over IPv6, which curl tries first for `localhost`."""
    for host in ("127.0.0.1", "::1"):
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            continue
        return True
    return False
