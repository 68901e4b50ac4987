"""`check`: look for what a replay can't repeat in the source of an app's handlers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import typer

from awakeables.checking.check import check as check_app
from awakeables.checking.findings import CheckedCode
from awakeables.cli.options import AppName, AsJson
from awakeables.cli.terminal import print_json, print_line, print_note
from awakeables.handlers.service import App
from awakeables.loading import load


def check(app: AppName, json_: AsJson = False) -> None:
    """Look for what a replay can't repeat in the source of an app's handlers. Exits with 1 if it finds any.

    What it looks for, and how to silence a line: docs/handlers.md.
    """
    checked = check_app(load(app, App, "app"))
    if json_:
        print_json(msgspec.json.encode(_document(checked)))
    else:
        _print(checked)
    if checked.findings:
        raise typer.Exit(1)


def _document(checked: CheckedCode) -> dict[str, object]:
    return {
        "handlers": checked.handlers,
        "warnings": [
            {"file": each.path, "line": each.line, "rule": each.rule, "text": each.text}
            for each in checked.findings
        ],
        "without_source": checked.without_source,
    }


def _print(checked: CheckedCode) -> None:
    for each in checked.findings:
        print_line(f"{_shown(each.path)}:{each.line}: {each.rule}: {each.text}")
    for name in checked.without_source:
        print_note(f"note: {name} was not checked: its source was not found")
    handlers, warnings = checked.handlers, len(checked.findings)
    found = f"{warnings} warning{'s' * (warnings != 1)}" if warnings else "nothing found"
    print_line(f"{handlers} handler{'s' * (handlers != 1)} checked, {found}")


def _shown(path: str) -> str:
    """The path from the current directory, if the file is below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
