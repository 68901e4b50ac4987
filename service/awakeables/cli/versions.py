"""`versions`: which versions of the code open invocations have, and which may be deleted."""

from __future__ import annotations

from typing import Any

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_table

_TABLE = TableLayout(
    names=("handler", "version", "marker", "open", "oldest", "note"), spare=("oldest",), prose="note"
)

_OF_HANDLERS = {
    "current": "",
    "needed": "",
    "unused": "may be deleted",
    "missing": "not in the code: they are paused when they go on",
}
_OF_MARKERS = {
    "needed": "",
    "unused": "no open invocation has it",
    "unasked": "have not asked; those begun before the code asked get 1",
}


def versions(wide: Wide = False, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """Count the open invocations of each version of a handler, and of each marker of `ctx.version`.

    A version of a handler that no open invocation has may be deleted. A marker is listed while an open
    invocation has it.
    """
    reply = ServiceClient(config, url).get("versions").or_exit()
    if json_:
        print_json(reply.text)
        return
    print_table(_TABLE, map(_row, reply.document["items"]), none="the app has no handlers", wide=wide)


def _row(item: dict[str, Any]) -> dict[str, Any]:
    marker, notes = item["marker"], _OF_HANDLERS
    if marker is not None:
        number = item["marker_version"]
        marker, notes = f"{marker} {'-' if number is None else number}", _OF_MARKERS
    return {
        "handler": f"{item['service']}/{item['handler']}",
        "version": item["version"],
        "marker": marker,
        "open": item["open"],
        "oldest": item["oldest"],
        "note": notes[item["state"]],
    }
