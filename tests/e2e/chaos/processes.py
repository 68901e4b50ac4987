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
RESTART_S = 0.2
CLI = str(Path(sys.executable).with_name("awakeables"))


class Victim:
    """One process at a time of one command.

    Attributes:
        starts: How often it was started.
        failures: The exit statuses with which it ended by itself.
    """

    def __init__(self, name: str, *command: str, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.starts = 0
        self.failures: list[int] = []
        self._command = command
        self._log = log
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._may_start = asyncio.Lock()

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
                env=os.environ | {"PYTHONFAULTHANDLER": "1"} | dict(self._environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def configure(self, **environment: str) -> None:
        """Variables that its next start has besides."""
        self._environment = {**self._environment, **environment}

    def kill_now(self) -> None:
        """SIGKILL, unless it has just ended by itself."""
        if self.is_running:
            self.process.kill()

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        status = await self.process.wait()
        assert status == -signal.SIGKILL, f"{self.name} had ended with {status}:\n{self.last_words()}"

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    def freeze(self) -> None:
        """SIGSTOP: it does nothing any more, and does not know it."""
        self.process.send_signal(signal.SIGSTOP)

    async def freeze_before_a_write(self, *, locking: bool = False, timeout: float = 10) -> bool:
        """It stops itself between reading rows and writing what it has decided on them; see `tampering`.

        Args:
            locking: While it holds locks on them.
            timeout: How long it is given to come to such a write, in seconds.

        Returns:
            Whether it has.
        """
        if self.is_running:
            self.process.send_signal(signal.SIGUSR2 if locking else signal.SIGUSR1)
        try:
            async with asyncio.timeout(timeout):
                while not self.is_frozen:  # noqa: ASYNC110 - the system has no event for it
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return False
        return True

    @property
    def is_frozen(self) -> bool:
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return False  # it has ended
        return stat.rpartition(")")[2].split()[0] == "T"

    def thaw(self) -> None:
        """Unless it was killed meanwhile."""
        if self.is_running:
            self.process.send_signal(signal.SIGCONT)

    async def keep_running(self) -> None:
        """Start it again whenever it has ended, as systemd would, until cancelled."""
        while True:
            status = await self.process.wait()
            if status != -signal.SIGKILL:
                self.failures.append(status)
            await asyncio.sleep(RESTART_S)
            async with self._may_start:
                await self.start()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """SIGKILL; within the block it is not started again."""
        async with self._may_start:
            self.kill_now()
            yield

    async def stop(self, timeout: float = 60) -> int:
        """SIGTERM; the exit status. If it does not end, its log ends with what its threads do."""
        self.process.terminate()
        try:
            async with asyncio.timeout(timeout):
                return await self.process.wait()
        except TimeoutError:
            self.process.send_signal(signal.SIGABRT)  # Python's fault handler writes all stacks
            return await self.process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else "(no log)"

    def last_words(self) -> str:
        return self.log()[-4000:]

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


@asynccontextmanager
async def kept_running(*victims: Victim) -> AsyncIterator[None]:
    """Within the block each is started again whenever it has ended, as systemd would."""
    async with asyncio.TaskGroup() as tasks:
        keepers = [tasks.create_task(victim.keep_running()) for victim in victims]
        yield
        for keeper in keepers:
            keeper.cancel()
