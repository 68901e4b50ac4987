"""pgbouncer in transaction mode in front of a PostgreSQL server: Debian's package `pgbouncer`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from support.real_kafka import LOOPBACK, free_port
from support.real_postgres import USER

PROGRAM = Path("/usr/sbin/pgbouncer")
START_S = 60.0
POOL_SIZE = 8
"""Sessions of the server that all connections of a user to a database share."""

CONFIGURATION = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
"""


def reason_pooler_is_missing() -> str | None:
    """One sentence on why no pooler can be started here, or None."""
    return None if PROGRAM.exists() else f"There is no {PROGRAM}: Debian's package `pgbouncer` has it."


@contextlib.contextmanager
def pooler(server_port: int) -> Iterator[int]:
    """The port of a pooler in front of the server at this port; it ends at the latest with this process."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="awakeables-pooler-"))
    folder.chmod(0o755)
    (folder / "users").write_text(f'"{USER}" ""\n')
    (folder / "ini").write_text(
        CONFIGURATION.format(
            host=LOOPBACK, port=port, server_port=server_port, folder=folder, pool_size=POOL_SIZE
        )
    )
    other_user = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.getuid() == 0 else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", *other_user, "--pdeathsig=TERM", PROGRAM, folder / "ini"], stdout=log, stderr=log
        )
    try:
        deadline_s = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise AssertionError(f"pgbouncer did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def behind(url: str, port: int) -> str:
    """The URL of the same database behind the pooler at this port."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{LOOPBACK}:{port}"))
