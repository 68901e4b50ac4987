"""The processes that are measured: started, waited for, and ended whatever happens."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 40.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A process did not do what it was started for; the message ends with what it said last."""


class Process:
    """One process, its log beside the store."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    def cpu_s(self) -> float:
        """Processor time so far, in seconds; 0 where there is no /proc."""
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return 0.0
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def memory_mb(self) -> float:
        """Resident memory now, in MB; 0 where there is no /proc."""
        return self._status_mb("VmRSS")

    def peak_memory_mb(self) -> float:
        """The most that was ever resident, in MB; 0 where there is no /proc."""
        return self._status_mb("VmHWM")

    def _status_mb(self, field: str) -> float:
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field)), 0.0)

    def finish(self, timeout_s: float) -> str:
        """Wait for its end, and return what it said.

        Raises:
            Failed: It took too long, or its code is not 0.
        """
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} has not ended after {timeout_s:.0f} s") from None
        if code != 0:
            raise Failed(f"{self.name} ended with code {code}:\n{self.last_words()}")
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raise `Failed` if it has ended."""
        if self._popen.poll() is not None:
            raise Failed(f"{self.name} ended with code {self._popen.returncode}:\n{self.last_words()}")

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End it; nothing if it has ended."""
        self._popen.terminate()
        try:
            self._popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


@contextmanager
def running(
    name: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    program: str = sys.executable,
    starts_in: Path | None = None,
) -> Iterator[Process]:
    """A process with these arguments, Python's unless said otherwise, until the block is left."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [program, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=starts_in,
            env={**os.environ, **environment},  # noqa: TID251 - a child's environment is ours and more
        )
    process = Process(name, popen, log)
    try:
        yield process
    finally:
        process.stop()


def wait_for_port(process: Process, port: int) -> None:
    """Return once a process answers on its port.

    Raises:
        Failed: It ended, or took too long.
    """
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        process.check()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Failed(f"{process.name} did not listen on port {port}:\n{process.last_words()}")


def wait_until_ready(process: Process, port: int) -> None:
    """Return once `/health/ready` is answered with 200.

    Raises:
        Failed: It ended, or took too long.
    """
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        process.check()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with closing(connection), suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.01)
    raise Failed(f"{process.name} was not ready in time:\n{process.last_words()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
