"""What is installed: the files of `schemas/`, from a wheel, an sdist and editable; and the libraries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import hatchling
import pytest
from packaging.requirements import Requirement

from awakeables.web.describing.contract import contract
from support.functions import PUBLIC

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


FUNCTION = """
import json, sys
from awakeables import App, Context, Service
from awakeables.remote import asgi, lambda_handler

greeter = Service("greeter")

@greeter.handler()
async def greet(ctx: Context, name: str) -> str:
    return f"Hello {name}"

app = App("greeter", services=[greeter])
asgi(app, keys=[sys.argv[1]])
event = {"version": "2.0", "requestContext": {"http": {"method": "GET"}}, "headers": {}}
said = [lambda_handler(app, **who)(event, None) for who in ({"unsigned": True}, {"keys": [sys.argv[1]]})]
modules = {name.partition(".")[0] for name in sys.modules}
json.dump([[answer["statusCode"] for answer in said], sorted(modules)], sys.stdout)
"""


def wheels_needed(wheel: Path, extra: str) -> set[str]:
    """The distributions that pip installs for an extra of this wheel, itself excluded."""
    [metadata] = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA")]
    said = message_from_bytes(zipfile.ZipFile(wheel).read(metadata))
    left = [(text, extra) for text in said.get_all("Requires-Dist", [])]
    found: set[str] = set()
    while left:
        text, of = left.pop()
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": of}):
            continue
        if requirement.name not in found:
            found.add(requirement.name)
            more = distribution(requirement.name).requires or []
            left += [(each, of) for of in ("", *requirement.extras) for each in more]
    return found


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, and what its extra `function` installs."""
    folder = tmp_path_factory.mktemp("light")
    zipfile.ZipFile(wheel).extractall(folder)
    for name in wheels_needed(wheel, "function"):
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return folder


def run_light(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code that finds only what is in the folder, and Python's own."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        (sys.executable, "-S", "-c", code, *arguments),
        env=environment | {"PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_function_is_installed_without_kafka_stores_and_servers(wheel: Path) -> None:
    needed = wheels_needed(wheel, "function")
    assert {"pydantic", "msgspec", "cryptography"} <= needed
    assert not needed & wheels_needed(wheel, "service") - wheels_needed(wheel, "")


def test_a_function_runs_with_what_its_extra_installs(light: Path) -> None:
    done = run_light(light, FUNCTION, PUBLIC)
    assert done.returncode == 0, done.stderr
    statuses, modules = json.loads(done.stdout)
    assert statuses == [200, 401]
    assert not {"aiokafka", "sqlite3", "starlette", "uvicorn", "rich", "asyncpg"} & set(modules)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("from awakeables.cli import main; main()", "this command needs the extra `service`"),
        ("import awakeables.testing", "the testing kit needs the extra `service`"),
    ],
)
def test_what_needs_the_service_says_so(code: str, told: str, light: Path) -> None:
    done = run_light(light, code)
    assert done.returncode == 1
    assert f"{told}: pip install 'awakeables[service]'" in done.stderr.splitlines()[-1]
