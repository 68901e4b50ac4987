"""What it was measured on, in one line."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

from benchmarks import disk


def described(folder: Path) -> str:
    """Versions, cores, the disk's fsync, and how busy the machine was before."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("uvloop", "aiokafka"))
    return (
        f"Python {platform.python_version()}, {libraries}, SQLite {sqlite3.sqlite_version} with "
        f"synchronous=FULL, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run, "
        f"an fsync of 4 KiB takes {disk.fsync_ms(folder):.2f} ms"
    )
