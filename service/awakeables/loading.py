"""`MODULE:NAME`: finds an app or a worker in the user's code, and says clearly why not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TypeVar

from awakeables.errors import DeclarationError

T = TypeVar("T")


def load(target: str, kind: type[T], what: str) -> T:
    """Import `module:name`, from the current folder first.

    Raises:
        DeclarationError: There is no such module or name, or it is something else.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise DeclarationError(f"{target!r} is not MODULE:NAME; for example shop:{what}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise DeclarationError(
            f"there is no module {error.name!r} here ({here}) or installed; it was asked for by {target!r}"
        ) from error
    found = getattr(module, name, None)
    if isinstance(found, kind):
        return found
    names = sorted(key for key, value in vars(module).items() if isinstance(value, kind))
    hint = f"; it has: {', '.join(names)}" if names else f"; it has no {kind.__name__} at all"
    raise DeclarationError(f"{module_name!r} has no {kind.__name__} called {name!r}{hint}")
