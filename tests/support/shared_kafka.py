"""One broker for all processes of a test run: the first that needs it starts it, the run's end stops it."""

from __future__ import annotations

import fcntl
import json
from typing import IO

from docker.errors import NotFound

from support.real_kafka import RealKafka
from support.this_run import SHARED_KAFKA


def shared_kafka() -> RealKafka:
    """The broker of this run, started if it isn't yet. Raises `BrokerNotReadyError`."""
    with SHARED_KAFKA.open("a+") as handover:
        fcntl.flock(handover, fcntl.LOCK_EX)
        if (kafka := _started(handover)) is None:
            kafka = RealKafka()
            kafka.start()
            kafka.leave_running()
            handover.truncate(0)
            json.dump({"container_id": kafka.container_id, "port": kafka.port}, handover)
        return kafka


def stop_shared_kafka() -> None:
    """For the process that ends last. Does nothing when no broker was started."""
    if SHARED_KAFKA.exists():
        with SHARED_KAFKA.open("r") as handover:
            kafka = _started(handover)
        if kafka is not None:
            kafka.stop()
        SHARED_KAFKA.unlink()


def _started(handover: IO[str]) -> RealKafka | None:
    handover.seek(0)
    found = handover.read()
    try:
        return RealKafka.attached(**json.loads(found)) if found else None
    except NotFound:
        return None  # of a run that was killed, and had the same process ID
