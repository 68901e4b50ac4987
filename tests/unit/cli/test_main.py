"""The console script: what is told when a command can't do its work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from awakeables.cli.main import main
from support.console import console

UNKNOWN = "prom_101hf7yat0060rk4csm6mv3ee1s3zhr432"


@pytest.mark.parametrize("target", ["[reader]", "[/red]", ":bug:"])
def test_an_error_is_shown_to_the_letter_whatever_it_names(
    target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "argv", ["awakeables", "settings", "--config", target])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert target in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("serve", "shop"), "is not of the form MODULE:NAME"),
        (("serve", "nowhere:app"), "no module 'nowhere'"),
        (("serve", "shop:shop"), "it has: app"),
        (("worker", "shop:app"), "it has: packer"),
        (("list",), "can't be reached"),
        (("list", "--url", "nonsense"), "nonsense"),
        (("reject", UNKNOWN, "no", "--details", "{"), "--details is not JSON"),
    ],
)
def test_errors_are_reported_in_one_line_without_a_stack(words: tuple[str, ...], told: str) -> None:
    result = console(*words, AWAKEABLES_URL="http://127.0.0.1:9")
    assert result.returncode == 1
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_a_misspelled_setting_is_refused_with_the_nearest_name() -> None:
    result = console("serve", "shop:app", AWAKEABLES_PROT="1")
    assert result.returncode == 1
    assert "did you mean AWAKEABLES_PORT?" in result.stderr


def test_a_setting_that_can_not_be_is_refused_by_name() -> None:
    result = console("serve", "shop:app", AWAKEABLES_PORT="many")
    assert result.returncode == 1
    assert "AWAKEABLES_PORT" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(
            "dev",
            "serve",
            "worker",
            "resolve",
            "reject",
            "list",
            "show",
            "why",
            "pause",
            "resume",
            "restart",
            "cancel",
            "kill",
            "doctor",
            "settings",
            "backup",
            "check",
            "replay",
        ),
        *("dead-letters list", "dead-letters show", "dead-letters resend", "offsets show", "offsets skip"),
        *("outbox list", "outbox show", "outbox resend"),
        *("objects list", "objects show", "objects pause", "objects resume", "objects state"),
        *("topics check", "topics create"),
    ],
)
def test_every_command_has_help(command: str) -> None:
    result = console(*command.split(), "--help")
    assert result.returncode == 0
    assert "Usage: " in result.stdout
    assert f" {command} [OPTIONS]" in result.stdout


def test_a_wrong_flag_is_a_usage_error() -> None:
    assert console("serve", "shop:app", "--prot", "1").returncode == 2


def test_a_settings_file_is_read_before_or_after_the_command_and_a_typo_in_it_is_reported(
    tmp_path: Path,
) -> None:
    file = tmp_path / "awakeables.toml"
    file.write_text('url = "http://127.0.0.1:9"\n')
    for words in (("--config", str(file), "list"), ("list", "--config", str(file))):
        assert "the service at http://127.0.0.1:9 can't be reached" in console(*words).stderr
    file.write_text('ulr = "x"\n')
    told = console("list", "--config", str(file))
    assert told.returncode == 1
    assert told.stderr == f"error: ulr in {file} is not a setting; did you mean url?\n"
