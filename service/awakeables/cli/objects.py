"""`objects`: the keys of a virtual object, their queues and their state."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from msgspec import UNSET, Raw, UnsetType

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Limit, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import exit_with_error, print_json, print_line, print_page
from awakeables.core.texts import shortened

group = typer.Typer(
    help="List the keys of an object, show, pause or resume one, show or edit its state.",
    no_args_is_help=True,
)

_QUEUES = TableLayout(names=("key", "length", "head", "since", "paused"), spare=("paused", "since", "head"))
_KEYS = TableLayout(names=("key",))
_STATE = TableLayout(names=("name", "updated", "value"), spare=("updated",), prose="value")


class Having(StrEnum):
    queue = "queue"
    state = "state"


ObjectArgument = Annotated[str, typer.Argument(metavar="OBJECT", help="The object's name.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key.")]
After = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only those that sort after this one.", show_default=False)
]


@group.command("list")
def list_(
    name: ObjectArgument,
    having: Annotated[
        Having, typer.Option(help="queue: keys that are held or paused; state: keys that have state.")
    ] = Having.queue,
    limit: Limit = 50,
    after: After = None,
    wide: Wide = False,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """List the keys of an object in order: those that are held or paused, or those that have state."""
    client = ServiceClient(config, url)
    page = client.get("objects", name, having=having.value, limit=limit, after=after).or_exit()
    if json_:
        print_json(page.text)
        return
    if having is Having.queue:
        table, none = _QUEUES, "no key is held or paused"
    else:
        table, none = _KEYS, "no key has state"
    print_page(table, page.document, none=none, wide=wide, cursor="--after")


@group.command()
def show(name: ObjectArgument, key: KeyArgument, url: Url = None, config: Config = None) -> None:
    """Show the queue of a key, as JSON. `awakeables why` says the same in words."""
    print_json(ServiceClient(config, url).get("objects", name, key).or_exit().text)


@group.command()
def pause(
    name: ObjectArgument, key: KeyArgument, url: Url = None, json_: AsJson = False, config: Config = None
) -> None:
    """Let no further exclusive invocation of a key begin; one that has begun goes on."""
    reply = ServiceClient(config, url).post("objects", name, key, "pause").or_exit()
    print_json(reply.text) if json_ else print_line(f"{name}/{key}: paused{_queue(reply.document)}")


@group.command()
def resume(
    name: ObjectArgument, key: KeyArgument, url: Url = None, json_: AsJson = False, config: Config = None
) -> None:
    """Let the invocations of a paused key begin again, in their order."""
    reply = ServiceClient(config, url).post("objects", name, key, "resume").or_exit()
    print_json(reply.text) if json_ else print_line(f"{name}/{key}: resumed{_queue(reply.document)}")


def _queue(status: dict[str, Any]) -> str:
    """Who holds a key, and how many wait behind, if any."""
    words = ""
    if status["head"]:
        row = status["head"][0]["invocation"]
        words += f"; {row['id']} ({row['handler']}) holds it"
    behind = status["length"] - bool(status["head"])
    if behind:
        words += f"; {behind:,} {'call is' if behind == 1 else 'calls are'} in line"
    return words


@group.command()
def state(  # noqa: PLR0913 - options of a command
    name: ObjectArgument,
    key: KeyArgument,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=JSON",
            help="Set a value of a paused key; repeatable.",
            show_default=False,
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Remove a value of a paused key; repeatable.", show_default=False),
    ] = None,
    limit: Limit = 50,
    after: After = None,
    wide: Wide = False,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Show the state of a key by name, or with --set and --remove edit it.

    To edit it, pause the key first (`awakeables objects pause`), and wait until no invocation holds it.
    """
    client = ServiceClient(config, url)
    if set_ or remove:
        edit = _edit(set_ or [], remove or [])
        body = "{" + ",".join(f"{json.dumps(each)}:{text}" for each, text in edit.items()) + "}"
        reply = client.patch("objects", name, key, "state", body=body).or_exit()
        if json_:
            print_json(reply.text)
        else:
            print_line(f"{name}/{key}: {len(set_ or [])} set, {len(remove or [])} removed")
        return
    reply = client.get("objects", name, key, "state", limit=limit, after=after).or_exit()
    if json_:
        print_json(reply.text)
        return
    rows = [_row(item) for item in msgspec.json.decode(reply.text, type=_StatePage).items]
    page = {"items": rows, "next": reply.document["next"]}
    print_page(_STATE, page, none=f"{name}/{key} has no state", wide=wide, cursor="--after")


class _StateRow(msgspec.Struct):
    """A value; as JSON it is printed as it was written."""

    name: str
    updated: str
    value: Raw | UnsetType = UNSET
    value_base64: str = ""


class _StatePage(msgspec.Struct):
    items: list[_StateRow]


def _row(entry: _StateRow) -> dict[str, str]:
    text = bytes(entry.value).decode() if isinstance(entry.value, Raw) else f"base64: {entry.value_base64}"
    return {"name": entry.name, "updated": entry.updated, "value": shortened(text)}


def _edit(sets: list[str], removes: list[str]) -> dict[str, str]:
    """The new value of each name as JSON text, as it was written; null removes the name."""
    edit: dict[str, str] = {}
    for given in sets:
        name, equals, text = given.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{given!r} is not of the form NAME=JSON", param_hint="--set")
        try:
            is_null = json.loads(text) is None
        except ValueError as error:
            exit_with_error(f"--set {name} is not JSON: {error}; a text has quotes, as in '{name}=\"x\"'")
        if is_null:
            raise typer.BadParameter(
                f"null removes {name!r}: use --remove {name} for that", param_hint="--set"
            )
        _add(edit, name, text)
    for name in removes:
        _add(edit, name, "null")
    return edit


def _add(edit: dict[str, str], name: str, text: str) -> None:
    if name in edit:
        raise typer.BadParameter(f"{name!r} is given twice", param_hint="--set or --remove")
    edit[name] = text
