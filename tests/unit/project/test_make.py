"""What `make` does on a fresh clone: it says each step, and installs what the target needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def pins(lock: str) -> set[str]:
    return set(
        re.findall(r"^([a-z0-9][\w.-]*==\S+)", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE)
    )


def planned(target: str, clone: Path) -> str:
    for name in ("Makefile", "pyproject.toml", "requirements"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, clone / name)
    # Within a `make` that runs the tests it would say which directory it enters.
    command = ["make", "--no-print-directory", "-n", target]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout


def test_case_u12_the_demo_on_a_fresh_clone_says_each_step_and_installs_what_it_needs(tmp_path: Path) -> None:
    steps = planned("demo", tmp_path).splitlines()
    said = [line for line in steps if line.startswith("echo")]
    assert [line.split()[1].strip('"') for line in said] == ["making", "installing"]
    done = [line for line in steps if not line.startswith(("echo", "touch"))]
    assert "-m venv .venv" in done[1]
    assert "-r requirements/demo.txt" in done[2]
    assert done[-1] == ".venv/bin/python -m examples.demo"
    assert "lock.txt" not in "".join(steps)
    assert "--quiet" not in "".join(steps)


def test_case_u12_the_demo_needs_a_part_of_what_is_locked_and_none_of_the_tests_tools() -> None:
    demo, everything = pins("demo"), pins("lock")
    assert pins("runtime") | pins("build") < demo < everything
    names = {pin.partition("==")[0] for pin in demo}
    assert "confluent-kafka" in names
    assert not names & {"pytest", "mypy", "pyright", "ruff", "hypothesis", "testcontainers", "schemathesis"}


def test_an_environment_that_has_everything_is_used_by_the_demo(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/installed").touch()
    steps = planned("demo", tmp_path)
    assert "demo.txt" not in steps


def test_case_u12_a_python_that_is_too_old_is_named_before_anything_is_made(tmp_path: Path) -> None:
    planned("demo", tmp_path)
    old = tmp_path / "python3.9"
    pretends = f'exec {sys.executable} -c "import sys; sys.version_info = (3, 9); $2"'
    old.write_text(f"#!/bin/sh\n[ $1 = -c ] && {pretends}\nexit 9\n")
    old.chmod(0o755)
    told = subprocess.run(["make", "demo", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode != 0
    assert "is 3.9, 3.11 is the oldest that will do" in told.stderr
    assert not (tmp_path / ".venv").exists()
