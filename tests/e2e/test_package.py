"""The package has the files of `schemas/`: installed from a wheel, from an sdist, and editable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

import hatchling
import pytest

from awakeables.web.describing.contract import contract

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas"
NAMES = sorted(path.name for path in SCHEMAS.iterdir() if path.is_file())
DOCUMENTS = [name for name in NAMES if name.endswith(".json")]
LIBRARIES = Path(hatchling.__file__).parents[1]
READ = """
import json, sys, awakeables
from awakeables.web.describing.contract import contract
json.dump([awakeables.__file__, {name: contract(name) for name in sys.argv[1:]}], sys.stdout)
"""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What it prints. PYTHONPATH lends our libraries, among them the build back-end, but not this package."""
    environment = os.environ | {"PYTHONPATH": str(LIBRARIES)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder)
    [made] = folder.iterdir()
    return made


class Installed:
    """The package in an environment of its own."""

    def __init__(self, folder: Path, *what: str | Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self._python = folder / "bin/python"
        options = (
            "--quiet",
            "--no-compile",  # Python compiles the few modules that are read
            "--disable-pip-version-check",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
        )
        run(sys.executable, "-m", "pip", "--python", self._python, "install", *options, *what)

    def read(self) -> tuple[Path, dict[str, object]]:
        """Where the package is, and the documents as the program reads them."""
        file, documents = json.loads(run(self._python, "-c", READ, *DOCUMENTS, cwd=self._python.parent))
        return Path(file), documents


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tmp_path_factory.mktemp("sdist"))


def authored() -> dict[str, object]:
    return {name: json.loads((SCHEMAS / name).read_text()) for name in DOCUMENTS}


def test_the_wheel_has_every_file_byte_for_byte(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        start = "awakeables/schemas/"
        packed = {
            name.removeprefix(start): archive.read(name)
            for name in archive.namelist()
            if name.startswith(start)
        }
    assert packed == {name: (SCHEMAS / name).read_bytes() for name in NAMES}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_is_installed_reads_what_is_authored(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    installed = Installed(tmp_path / "venv", request.getfixturevalue(kind))
    file, documents = installed.read()
    assert file.is_relative_to(tmp_path)
    assert documents == authored()


def test_an_editable_install_reads_the_files_themselves(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("service", "schemas"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    installed = Installed(tmp_path / "venv", "--editable", tree)
    file, documents = installed.read()
    assert file.is_relative_to(tree)
    assert documents == authored()
    changed = {"title": "changed"}
    (tree / "schemas/task.schema.json").write_text(json.dumps(changed))
    assert installed.read()[1]["task.schema.json"] == changed


def test_what_is_tested_here_is_what_is_authored() -> None:
    for name in NAMES:
        assert (SCHEMAS / name).samefile(str(files("awakeables") / "schemas" / name))
    assert {name: contract(name) for name in DOCUMENTS} == authored()
