"""The console script: what is told when a command can't do its work."""

from __future__ import annotations

import sys

import pytest

from awakeables.cli.main import main


@pytest.mark.parametrize("target", ["[reader]", "[/red]", ":bug:"])
def test_an_error_is_told_to_the_letter_whatever_it_names(
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
