"""The console script run in this process: half a second less than a process of its own."""

from __future__ import annotations

import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest import mock

from awakeables.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
LOOKS = {"COLUMNS": "160", "NO_COLOR": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """As `subprocess` gives it."""

    returncode: int | str | None
    stdout: str
    stderr: str


def console(*words: str, **environment: str) -> Told:
    """Run a command that ends by itself, in the folder of the examples."""
    out, err = StringIO(), StringIO()
    with (
        mock.patch.dict(os.environ, LOOKS | environment),
        mock.patch.object(sys, "argv", ["awakeables", *words]),
        redirect_stdout(out),
        redirect_stderr(err),
        chdir(EXAMPLES),
    ):
        try:
            main()
        except SystemExit as ended:
            return Told(returncode=ended.code, stdout=out.getvalue(), stderr=err.getvalue())
    raise AssertionError("a command ends with an exit code")
