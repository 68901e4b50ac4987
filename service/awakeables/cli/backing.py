"""`backup`: a copy of the store's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from awakeables.cli.options import Config, Json, Store
from awakeables.cli.terminal import fail, print_json, say
from awakeables.settings import load_settings


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy to make; it must not exist yet.")],
    store: Store = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """Copy the whole store to FILE, whether the service runs or not. Restore: see docs/operations.md.

    It reads the store's file directly, on the machine where the file is, not over HTTP.
    """
    from awakeables.runtime import MEMORY
    from awakeables.store.sqlite.backup import back_up

    source = load_settings(config, store=store).store
    if source == MEMORY:
        fail("the store is memory: there is no file to back up")
    copy = back_up(Path(source), file)
    if json_:
        told = {"file": str(file.absolute()), "bytes": copy.bytes, "schema": copy.version, "app": copy.app}
        print_json(msgspec.json.encode(told))
    else:
        whose = "no app" if copy.app is None else f"the app {copy.app!r}"
        say(f"{file}: {copy.bytes / 1_000_000:.1f} MB, of {whose}, schema {copy.version}, checked")
