"""The ledger: a line for whatever a process is about to do, which survives the process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Ledger:
    """A file that many processes append to; each line is one write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, kind: str, **facts: Any) -> None:
        line = json.dumps({"kind": kind, "pid": os.getpid()} | facts) + "\n"
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def lines(self, kind: str | None = None) -> list[Line]:
        if not self._path.exists():
            return []
        lines = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [line for line in lines if kind in (None, line["kind"])]


def ledger_of_this_process() -> Ledger:
    return Ledger(Path(os.environ["CHAOS_LEDGER"]))
