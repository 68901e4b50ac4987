"""`ctx.version`: which version of a part of the handler's code an invocation runs."""

from __future__ import annotations

from awakeables.core.texts import excerpt
from awakeables.errors import UnsupportedVersion
from awakeables.handlers.execution import Execution

LONGEST_NAME = 100
"""In characters."""

MOST = 2**53
"""The largest version: a number that every reader of JSON keeps."""


def version_of(execution: Execution, name: str, current: int, oldest: int) -> int:
    """The version that the invocation has.

    Raises:
        HandlerMisuse: The name or a version can't be one.
        Suspended: The code does not support the version; the invocation is paused.
    """
    execution.check()
    # PostgreSQL can't read JSON in which there is an escaped NUL.
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise execution.misuse(
            f"ctx.version: a name is a string of 1 to {LONGEST_NAME} printable characters, "
            f"not {excerpt(name)}"
        )
    if not is_version(current) or not is_version(oldest) or oldest > current:
        raise execution.misuse(
            f"ctx.version({name!r}): versions are whole numbers from 1 on, and oldest= is not above the "
            f"current one; given were {excerpt(current)} and oldest={excerpt(oldest)}"
        )
    version = execution.version(name, current)
    if oldest <= version <= current:
        return version
    supported = f"{oldest} and later" if version < oldest else f"only versions up to {current}"
    raise execution.break_off(
        UnsupportedVersion(
            f"this invocation began with {name} {version}, the code supports {supported}: deploy code that "
            f"supports {version}, then resume it"
        )
    )


def is_version(number: object) -> bool:
    """Whether it can be the number of a version."""
    return type(number) is int and 1 <= number <= MOST
