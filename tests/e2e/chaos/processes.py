"""Processes that are killed and started again; whoever leaves the block leaves none behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

TESTS = Path(__file__).parents[2]
CLI = str(Path(sys.executable).with_name("awakeables"))


class Victim:
    """One process at a time of one command."""

    def __init__(self, name: str, *command: str, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.starts = 0
        self._command = command
        self._log = log
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    async def start(self) -> None:
        self.starts += 1
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=TESTS,
                env=os.environ | dict(self._environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def kill(self) -> None:
        self.process.kill()
        status = await self.process.wait()
        assert status == -signal.SIGKILL, f"{self.name} had ended with {status}:\n{self.last_words()}"

    async def stop(self, timeout: float = 30) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        async with asyncio.timeout(timeout):
            return await self.process.wait()

    def last_words(self) -> str:
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else "(no log)"

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def ended(*victims: Victim) -> AsyncIterator[None]:
    """On leaving, all are dead; what they said last is shown if the test fails."""
    try:
        yield
    except BaseException:
        for victim in victims:
            print(f"── {victim.name}, started {victim.starts} times ──\n{victim.last_words()}")
        raise
    finally:
        for victim in victims:
            await victim.end()
