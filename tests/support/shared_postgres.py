"""One PostgreSQL for all processes of a test run: the first that needs it starts it."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from support.real_postgres import RealPostgres
from support.this_run import RUN, SHARED_POSTGRES


def shared_postgres() -> RealPostgres:
    """The server of this run, started if it isn't yet."""
    with SHARED_POSTGRES.open("a+") as handover:
        fcntl.flock(handover, fcntl.LOCK_EX)
        handover.seek(0)
        if found := handover.read():
            known = json.loads(found)
            if Path(known["folder"]).exists():
                return RealPostgres(Path(known["folder"]), known["port"])
        postgres = RealPostgres.started(ends_with=RUN)
        handover.truncate(0)
        json.dump({"folder": str(postgres.folder), "port": postgres.port}, handover)
        return postgres


def stop_shared_postgres() -> None:
    """For the process that ends last. Does nothing when no server was started."""
    known = SHARED_POSTGRES.read_text()
    SHARED_POSTGRES.unlink()
    if known:
        RealPostgres(Path(json.loads(known)["folder"]), 0).remove()
