"""What `dev` says once it is ready."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from examples.shop import app, packer

from awakeables.cli.service import _print_examples


def test_the_hints_name_every_handler_and_no_value_of_a_type_that_may_not_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print_examples(app, [packer], "http://127.0.0.1:8081", embedded=True, guarded=False)
    told = capsys.readouterr().err
    assert "curl http://127.0.0.1:8081/orders/fulfil" in told
    assert "awakeables resolve --url http://127.0.0.1:8081 prom_1… VALUE\n" in told


def test_case_u11_dev_without_its_extra_ends_in_one_line_that_names_it() -> None:
    without = "import sys; sys.modules['confluent_kafka'] = None; from awakeables.cli import main; main()"
    command = [sys.executable, "-c", without, "dev", "examples.shop:app"]
    told = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60)
    assert told.returncode == 1
    [line] = told.stderr.splitlines()
    assert "install awakeables[dev]" in line
    assert "--kafka HOST:PORT" in line


def test_case_u11_every_missing_optional_extra_has_its_own_message() -> None:
    """Each extra is explained in the README, and MissingDependency is raised without it."""
    root = Path(__file__).parents[3]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    readme = (root / "README.md").read_text()
    raising = "".join(path.read_text() for path in (root / "service").rglob("*.py"))
    for extra in extras:
        assert f"[{extra}]" in readme
        assert f'("{extra}"' in raising or f"extra `{extra}`" in raising
