"""The command line: parses arguments and prints results. The work is done elsewhere."""

import sys

from awakeables.errors import MissingDependency
from awakeables.extras import extra


def main() -> None:
    """The console script."""
    try:
        with extra("service", "this command needs"):
            from awakeables.cli.main import main as run
    except MissingDependency as error:
        sys.exit(f"error: {error}")
    run()


__all__ = ["main"]
