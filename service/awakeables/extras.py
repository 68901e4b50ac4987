"""Extras: parts of this package whose libraries are there only if they were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from awakeables.errors import MissingDependency


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Import within the block what needs the libraries of an extra.

    Args:
        name: The extra.
        purpose: What it is needed for, with its verb: "remote services need".

    Raises:
        MissingDependency: A library is missing; how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = "" if error.name is None else error.name.partition(".")[0]
        if missing in ("", "awakeables"):
            raise
        raise MissingDependency(
            f"{purpose} the extra `{name}`: pip install 'awakeables[{name}]' ({missing} is not installed)"
        ) from None
