"""The command line: parses arguments and prints results. The work is done elsewhere."""

from awakeables.cli.main import main

__all__ = ["main"]
