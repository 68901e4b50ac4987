"""`instances`: who shares the store, and what each instance owns."""

from __future__ import annotations

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_table

_TABLE = TableLayout(
    names=("id", "state", "build", "host", "heartbeat", "invocations", "partitions", "handlers"),
    spare=("host", "handlers"),
)


def instances(wide: Wide = False, url: Url = None, json_: AsJson = False, config: Config = None) -> None:
    """List the instances that share the store: who lives, and what each owns.

    Of an instance that has died, the others take over what it owned.
    """
    reply = ServiceClient(config, url).get("instances").or_exit()
    if json_:
        print_json(reply.text)
        return
    rows = [
        row | {name: ", ".join(map(str, row[name])) for name in ("partitions", "handlers")}
        for row in reply.document["items"]
    ]
    print_table(_TABLE, rows, none="no instance is registered", wide=wide)
