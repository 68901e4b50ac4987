"""Which test run this process is part of, and the servers that the processes of the run share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

RUN = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
"""The process that ends last in this run: a container that outlives it is an orphan."""

SHARED_KAFKA = Path(tempfile.gettempdir()) / f"awakeables-kafka-{RUN}.json"
"""Says how to reach the broker; locked while it is being started."""

SHARED_POSTGRES = Path(tempfile.gettempdir()) / f"awakeables-postgres-{RUN}.json"
"""Says how to reach the database server; locked while it is being started."""
