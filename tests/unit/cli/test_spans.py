"""Spans are off unless they are switched on, and need their extra then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from awakeables import runtime
from awakeables.cli import service
from awakeables.cli.main import cli
from awakeables.settings import Settings, load_settings
from support.spans import Recorder

ROOT = Path(__file__).parents[3]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_nothing_of_opentelemetry_is_imported_while_spans_are_off() -> None:
    done = python(
        "import sys, awakeables.cli.main, awakeables.runtime, awakeables.kafka.worker, awakeables.testing\n"
        "from awakeables.settings import Settings\n"
        "for settings in (Settings(), Settings(spans=True)):\n"
        "    spans = awakeables.runtime._spans(settings)\n"
        "    print('of this process:', spans is not None, 'opentelemetry' in sys.modules)"
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("of this process: ")]
    assert said == ["of this process: False False", "of this process: True True"], done.stderr


@pytest.mark.parametrize("command", [["serve", "examples.shop:app"], ["worker", "examples.shop:packer"]])
def test_without_the_extra_the_command_ends_in_one_line_that_names_it(command: list[str]) -> None:
    done = python(
        "import sys; sys.modules['opentelemetry'] = None; from awakeables.cli import main; "
        f"sys.argv[1:] = {[*command, '--spans', '--kafka', '127.0.0.1:1']}; main()"
    )
    assert done.returncode == 1
    assert "pip install 'awakeables[otel]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["serve", "examples.shop:app"], ["worker", "examples.shop:packer"]])
@pytest.mark.parametrize("flag", [True, False])
def test_the_flag_switches_them_on(command: list[str], flag: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []

    async def run(_what: object, settings: Settings, **_: object) -> None:
        given.append(settings.spans)

    monkeypatch.setattr(runtime, "serve", run)
    monkeypatch.setattr(runtime, "work", run)
    monkeypatch.setattr(service, "run_until_signalled", lambda start: start(None).send(None))
    CliRunner().invoke(cli, [*command, *(["--spans"] if flag else [])])
    assert given == [flag]


def test_the_variable_switches_them_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWAKEABLES_SPANS", "true")
    assert load_settings().spans


def test_it_is_known_whether_spans_are_recorded_anywhere() -> None:
    done = python(
        "from awakeables.telemetry.spans import Spans\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.trace import set_tracer_provider\n"
        "print(Spans().has_provider)\n"
        "set_tracer_provider(TracerProvider())\n"
        "print(Spans().has_provider)"
    )
    assert done.stdout.split() == ["False", "True"], done.stderr
    assert Recorder().spans.has_provider
