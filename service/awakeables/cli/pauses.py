"""`pauses`: the services and handlers of which nothing is claimed."""

from __future__ import annotations

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_table

_TABLE = TableLayout(names=("paused", "since", "by"), spare=("by",))


def pauses(wide: Wide = False, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """List the services and handlers that are paused."""
    reply = ServiceClient(config, url).get("pauses").or_exit()
    if json_:
        print_json(reply.text)
        return
    rows = [
        {"paused": each["target"], "since": each["since"], "by": each["by"]}
        for each in reply.document["items"]
    ]
    print_table(_TABLE, rows, none="no service and no handler is paused", wide=wide)
