"""`python -m e2e.chaos N FAULTS SEED`: a run with servers of its own; the last line is the verdict."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from e2e.chaos.instances import infrastructure, survive_faults


async def run(count: int, faults: int, seed: int) -> str:
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="awakeables-chaos-") as folder:
        try:
            async with infrastructure(ends_with=os.getpid()) as things:
                verdict = await survive_faults(Path(folder), things, seed=seed, count=count, faults=faults)
        except BaseException:
            _keep_logs(Path(folder), Path(tempfile.gettempdir()) / f"awakeables-chaos-{seed}")
            raise
    return f"{time.monotonic() - began_s:.0f} s\n{count:,} invocations, {faults} faults: {verdict}"


def _keep_logs(folder: Path, kept: Path) -> None:
    shutil.copytree(folder, kept, dirs_exist_ok=True)
    print(f"the logs are in {kept}")


if __name__ == "__main__":
    print(asyncio.run(run(*map(int, sys.argv[1:]))))
