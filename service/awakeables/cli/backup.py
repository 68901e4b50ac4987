"""`backup`: copy the store's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from awakeables.cli.options import AsJson, Config, StoreOption
from awakeables.cli.terminal import exit_with_error, print_json, print_line
from awakeables.settings import load_settings


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the copy; it must not exist.")],
    store: StoreOption = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Copy the whole store to FILE, whether or not the service is running.

    Reads the store's file directly, so run it on the machine that has the file. How to restore:
    docs/operations.md.
    """
    from awakeables.runtime import MEMORY
    from awakeables.store.sqlite.backup import back_up
    from awakeables.store.urls import is_postgres

    source = load_settings(config, store=store).store
    if source == MEMORY:
        exit_with_error("the store is in memory: there is no file to back up")
    if is_postgres(source):
        exit_with_error("the store is in PostgreSQL: back it up with pg_dump or your provider's backups")
    copy = back_up(Path(source), file)
    if json_:
        row = {"file": str(file.absolute()), "bytes": copy.bytes, "schema": copy.version, "app": copy.app}
        print_json(msgspec.json.encode(row))
    else:
        owner = "no app" if copy.app is None else f"app {copy.app!r}"
        print_line(f"{file}: {copy.bytes / 1_000_000:.1f} MB, {owner}, schema {copy.version}, verified")
