"""The command line: no logic, only what turns words into calls."""

from awakeables.cli.main import main

__all__ = ["main"]
