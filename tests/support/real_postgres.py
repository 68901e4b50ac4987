"""A real PostgreSQL from Debian's binaries, on a loopback port of its own.

A server ends with its run, also if that is killed: a process of its own waits for the run's end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Self, TypeAlias

import asyncpg

LOOPBACK = "127.0.0.1"
USER = "postgres"
EmptyDatabase: TypeAlias = Callable[[], Awaitable[str]]
"""Empties a database and returns its URL."""

BINARIES = Path("/usr/lib/postgresql")

UNSAFE = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
"""For tests of what commits mean: nobody pulls the plug."""

NO_ROWS = """
DELETE FROM awakeables.invocations; DELETE FROM awakeables.journal; DELETE FROM awakeables.awakeables;
DELETE FROM awakeables.schemas; DELETE FROM awakeables.outbox; DELETE FROM awakeables.dead_letters;
DELETE FROM awakeables.offsets; DELETE FROM awakeables.idempotency; DELETE FROM awakeables.topics;
DELETE FROM awakeables.instances; DELETE FROM awakeables.objects; DELETE FROM awakeables.state;
DELETE FROM awakeables.schedules; DELETE FROM awakeables.pauses; DELETE FROM awakeables.seals;
UPDATE awakeables.meta SET app = NULL
"""


def binaries() -> Path | None:
    """The folder of the newest server's programs; None: there is none."""
    found = sorted(BINARIES.glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    return found[-1].parent if found else None


def reason_real_postgres_is_missing() -> str | None:
    """One sentence on why no server can be started here, or None."""
    if binaries() is None:
        return f"There is no {BINARIES}/*/bin/initdb: Debian's package `postgresql` has it."
    if os.getuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL does not run as root, and there is no `runuser`."
    return None


class RealPostgres:
    """One server; the port and the data stay the same over every restart. All methods block."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    @classmethod
    def _at_a_port_of_its_own(cls, ends_with: int) -> Self:
        from support.real_kafka import free_port

        folder = Path(tempfile.mkdtemp(prefix="awakeables-postgres-"))
        folder.chmod(0o755)
        if os.getuid() == 0:
            shutil.chown(folder, USER)
        # In a session of its own, which an interrupt of the run's terminal doesn't reach.
        guard = [sys.executable, __file__, str(folder), str(ends_with)]
        subprocess.run(["setsid", "sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *guard], check=True)
        return cls(folder, free_port())

    @classmethod
    def started(cls, *, ends_with: int, options: Sequence[str] = UNSAFE) -> Self:
        """A new server; it ends at the latest with the process `ends_with`."""
        server = cls._at_a_port_of_its_own(ends_with)
        folder = server.folder
        _run("initdb", "-D", server.data, "-A", "trust", "-U", USER, "--no-sync", "-E", "UTF8", "--locale=C")
        with (folder / "data" / "postgresql.conf").open("a") as conf:
            conf.write(f"listen_addresses='{LOOPBACK}'\nport={server.port}\nunix_socket_directories=''\n")
            conf.write("max_connections=200\nshared_buffers='64MB'\nlog_min_messages=log\n")
            conf.write("\n".join(options) + "\n")
        server.start()
        return server

    def standby(self, *, ends_with: int) -> RealPostgres:
        """A standby that follows this server."""
        follower = self._at_a_port_of_its_own(ends_with)
        _run("pg_basebackup", "-d", self.url(), "-D", follower.data, "-R", "-c", "fast")
        with (follower.folder / "data" / "postgresql.conf").open("a") as conf:
            conf.write(f"port={follower.port}\n")
        follower.start()
        return follower

    def promote(self) -> None:
        """Make a standby take writes."""
        _run("pg_ctl", "-D", self.data, "-w", "promote")

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def url(self, database: str = USER, *, user: str = USER, password: str = "") -> str:
        return f"postgresql://{user}{':' if password else ''}{password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        _run("pg_ctl", "-D", self.data, "-w", "-t", "60", "-l", f"{self.data}/log", "start")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is how a power cut stops it."""
        _run("pg_ctl", "-D", self.data, "-w", "-t", "60", "-m", mode, "stop")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within the block none of its processes does anything."""
        postmaster = int(Path(f"{self.data}/postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGSTOP)  # first, so that there are no new ones
        others = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        frozen = [postmaster, *map(int, others)]
        try:
            for process in frozen:
                _signal(process, signal.SIGSTOP)
            yield
        finally:
            for process in reversed(frozen):
                _signal(process, signal.SIGCONT)

    def remove(self) -> None:
        """Stop the server, if it runs, and delete its data."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        return Path(f"{self.data}/log").read_text(errors="replace")

    @contextlib.contextmanager
    def database(self, *, migrated: bool = True, options: str = "") -> Iterator[str]:
        """The URL of a new database, dropped in the end; with our tables unless `migrated` is False."""
        name = f"t{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name} {options}")
        if migrated:
            from awakeables.store.postgres.schema import migrations

            for migration in migrations():
                self.sql(migration, database=name)
        try:
            yield self.url(name)
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.contextmanager
    def small_disk(self, megabytes: int) -> Iterator[Path]:
        """A file system of its own, which is the tablespace `small`.

        Raises:
            OSError: This process may mount none.
        """
        folder = self.folder / "small"
        folder.mkdir()
        mounted = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        if os.getuid() != 0 or subprocess.run(mounted, capture_output=True, check=False).returncode:
            folder.rmdir()
            raise OSError("only root, where the system lets it, can mount a file system")
        try:
            shutil.chown(folder, USER)
            self.sql(f"CREATE TABLESPACE small LOCATION '{folder}'")
            try:
                yield folder
            finally:
                self.sql("DROP TABLESPACE small")
        finally:
            # The server may still have files open.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            folder.rmdir()

    def sql(self, text: str, *, database: str = USER) -> str:
        """Run SQL with `psql`; what it prints."""
        program = binaries()
        assert program is not None
        told = subprocess.run(
            [
                program / "psql",
                self.url(database),
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-f",
                "-",
            ],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        return told.stdout.strip()


async def delete_rows(url: str) -> None:
    """Delete every row of a database with our tables: ten times faster than a new database."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(NO_ROWS)
    finally:
        await connection.close()


def _signal(process: int, order: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(process, order)


def _run(program: str, *arguments: str) -> None:
    folder = binaries()
    assert folder is not None
    command = [str(folder / program), *arguments]
    if os.getuid() == 0:
        command = ["runuser", "-u", USER, "--", *command]
    told = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd="/"
    )
    if told.returncode:
        raise subprocess.CalledProcessError(told.returncode, command, told.stdout, told.stderr)


def _remove_after(folder: Path, process: int) -> None:
    """Wait for the end of a process, then remove the server in a folder, if it is still there."""
    while folder.exists():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            RealPostgres(folder, 0).remove()
            return
        except PermissionError:
            pass
        time.sleep(1)


if __name__ == "__main__":
    _remove_after(Path(sys.argv[1]), int(sys.argv[2]))
