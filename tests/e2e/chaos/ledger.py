"""The ledger: a line for whatever a process is about to do, which survives the process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Ledger:
    """A file that many processes append to; each line is one write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, kind: str, **facts: Any) -> None:
        written = {"kind": kind, "pid": os.getpid(), "at_ms": round(time.time() * 1000)} | facts
        line = json.dumps(written) + "\n"
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._path.stat().st_size if self._path.exists() else 0

    def lines(self, kind: str | None = None, *, since: int = 0) -> list[Line]:
        """All lines, or those of a kind; `since` is the size that it had before them."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(since)
            lines = [json.loads(line) for line in file.read().splitlines()]
        return [line for line in lines if kind in (None, line["kind"])]


def ledger_of_this_process() -> Ledger:
    return Ledger(Path(os.environ["CHAOS_LEDGER"]))
