"""Beside the first: Restate's server and its Python SDK, with the same Kafka, load and worker.

Both are fetched into a folder of their own by npm and pip; where they can't be had, the section
is skipped. A record of Kafka can't complete an awakeable there, so the worker answers both over
HTTP. Everything else is as Restate comes: one node, its defaults, hypercorn with one process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks import disk
from benchmarks.cycles import RESOLVE_AT
from benchmarks.pairs import Entrant, Plan, compare
from benchmarks.processes import Failed, Process, free_port, wait_for_port
from benchmarks.stage import Ground, Server, Stage, staged

SERVER = "@restatedev/restate-server@1.7.12"
SDK = ("restate-sdk==1.3.0", "hypercorn==0.18.0")
SITE = "site"
REPLY_TO = "restate"
"""Stands in a task for the server that is to be answered; no topic."""

INSTALL_TIMEOUT_S = 300
REGISTER_TIMEOUT_S = 60.0


class _NotHad(Exception):
    """It can't be installed here."""


def measure(ground: Ground, plan: Plan, *, installed: Path | None) -> dict[str, Any]:
    """Drive Restate and ours in turn, or say why not.

    Args:
        ground: Where.
        plan: How.
        installed: A folder where Restate is, or is to be installed; none: a temporary one.

    Raises:
        disk.Broken: Not every call was answered.
        Failed: A process ended.
    """
    folder = installed or ground.folder / "restate"
    try:
        binary = _installed(folder)
    except _NotHad as error:
        return {"skipped": f"Restate is not compared: {error}"}
    with staged(ground) as stage:
        (other, handler), ours = _serve(stage, folder, binary), stage.serve(stage.folder / "bench.db")
        worker = stage.plain_worker(
            {REPLY_TO: other.url + "/restate/awakeables", stage.completions_topic: ours.url + RESOLVE_AT}
        )
        entrant = Entrant("ours", ours, worker)
        found = compare(Entrant("Restate", other, worker, helpers=(handler,)), entrant, plan)
        kept = disk.audit(stage.folder / "bench.db", answered=entrant.answered)
    return found | {"worker": "plain, over HTTP", "answered": entrant.answered, "kept": kept}


# ── installing ──────────────────────────────────────────────────────────────────────────────


def _installed(folder: Path) -> Path:
    """The server's binary, once it and the SDK are in the folder.

    Raises:
        _NotHad: They can't be.
    """
    if not (_binaries(folder) and (folder / SITE / "restate").is_dir()):
        npm = shutil.which("npm")
        if npm is None:
            raise _NotHad("its server comes from npm, which is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder))
        _install([npm, "install", *quiet, SERVER])
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _install([*pip, "--target", str(folder / SITE), *SDK])
    found = _binaries(folder)
    if not found:
        raise _NotHad(f"{SERVER} has no binary for this machine")
    return found[0]


def _binaries(folder: Path) -> list[Path]:
    return sorted(folder.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))


def _install(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        raise _NotHad(f"{Path(command[0]).name} can't install {command[-1]}") from None
    except (OSError, subprocess.TimeoutExpired):
        raise _NotHad(f"{Path(command[0]).name} did not install {command[-1]} in time") from None


# ── serving ─────────────────────────────────────────────────────────────────────────────────


def _serve(stage: Stage, folder: Path, binary: Path) -> tuple[Server, Process]:
    """Start server and handler, and tell the one of the other."""
    handler_port, ingress, admin, node = (free_port() for _ in range(4))
    handler = stage.start(
        "restate-handler",
        *("-m", "hypercorn", "-k", "uvloop", "-b", f"127.0.0.1:{handler_port}"),
        "benchmarks.restate_service:app",
        environment={"BENCH_KAFKA": stage.kafka, "PYTHONPATH": _import_path(folder)},
    )
    server = stage.start(
        "restate",
        program=str(binary),
        environment={
            "RESTATE_BASE_DIR": str(stage.folder / "restate-data"),
            "RESTATE_NODE_NAME": "bench",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}/",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_LOG_FILTER": "warn",
        },
    )
    wait_for_port(handler, handler_port)
    _register(server, admin, handler_port)
    return Server(process=server, port=ingress), handler


def _import_path(folder: Path) -> str:
    return os.pathsep.join([str(Path.cwd()), str(folder / SITE)])


def _register(server: Process, admin: int, handler_port: int) -> None:
    body = json.dumps({"uri": f"http://127.0.0.1:{handler_port}"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{admin}/deployments", data=body, headers={"content-type": "application/json"}
    )
    until = time.monotonic() + REGISTER_TIMEOUT_S
    while True:
        server.check()
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > until:
                raise Failed(f"Restate takes no handler ({error}):\n{server.last_words()}") from None
        time.sleep(0.2)
