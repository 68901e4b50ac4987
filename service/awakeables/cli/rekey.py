"""`rekey`: seal the values of a store again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from awakeables.cli.options import AsJson, Config, StoreOption
from awakeables.cli.terminal import exit_with_error, print_json, print_line, print_note
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.settings import load_settings

if TYPE_CHECKING:
    from awakeables.store.rekeying import Rekeyed


def rekey(
    app: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="The app, with its codec.", show_default=False)
    ],
    clear: Annotated[
        bool, typer.Option("--clear", help="Store all values in clear, for an app without a codec.")
    ] = False,
    store: StoreOption = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Seal all values of the store with the codec's current key, and say which keys are not needed any more.

    A store in SQLite must not be in use. One in PostgreSQL may be, once all its instances seal with that key.
    Exits with 1 if some values could not be opened.
    """
    from awakeables.runtime import rekeyed

    served = load(app, App, "app")
    if served.codec is None:
        exit_with_error(f"{app} has no codec: give it one, App(..., codec=KeyRing(...))")
    if served.codec.key_id is None and not clear:
        exit_with_error(f"the codec of {app} seals nothing: make one of its keys the current one")
    source = load_settings(config, store=store).store
    done = asyncio.run(rekeyed(source, served, clear=clear))
    if json_:
        print_json(msgspec.json.encode(done._asdict()))
    else:
        _print(done)
    if done.unread:
        raise typer.Exit(1)


def _print(done: Rekeyed) -> None:
    print_line(f"{done.values:,} values written again")
    for key_id in done.dropped:
        print_line(f"no value is sealed with the key {key_id!r} any more: it may leave the key ring")
    for key_id in done.kept:
        print_note(f"values are still sealed with the key {key_id!r}: keep it, if you have it")
    if done.unread:
        print_note(f"{done.unread:,} values could not be opened, and were left as they are")
