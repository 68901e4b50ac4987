"""Loads an app or worker from the user's code by `MODULE:NAME`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TypeVar

from awakeables.errors import DeclarationError

T = TypeVar("T")


def load(target: str, kind: type[T], what: str) -> T:
    """Import `module:name`, looking in the current directory first.

    Raises:
        DeclarationError: There is no such module or name, or it is not a `kind`.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise DeclarationError(f"{target!r} is not of the form MODULE:NAME, such as shop:{what}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise DeclarationError(
            f"no module {error.name!r} in {here} or installed; {target!r} needs it"
        ) from error
    found = getattr(module, name, None)
    if isinstance(found, kind):
        return found
    names = sorted(key for key, value in vars(module).items() if isinstance(value, kind))
    hint = f"; it has: {', '.join(names)}" if names else f"; it has no {kind.__name__}"
    raise DeclarationError(f"{module_name!r} has no {kind.__name__} called {name!r}{hint}")
