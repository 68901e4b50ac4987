"""`why`: what an invocation, or the key of an object, waits for, and the commands with which it goes on."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.options import AsJson, Config, Url
from awakeables.cli.terminal import exit_with_error, print_json, print_line
from awakeables.cli.timespans import Since
from awakeables.core.texts import excerpt
from awakeables.world import SystemClock

MOST_WAITS: Final = 5
"""How many of an invocation's waits are printed, each on its line."""

_TYPE = re.compile(r"[\w.]+\.(\w+)")
"""A type with a name of its own, in a module."""


def why(
    subject: Annotated[
        str, typer.Argument(metavar="ID | OBJECT", help="An invocation, inv_1…, or an object's name.")
    ],
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="A key of that object.", show_default=False)
    ] = None,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Say why an invocation, or the key of an object, goes on no further, and how to change that."""
    if key is None and not subject.startswith("inv_"):
        exit_with_error(
            f"{excerpt(subject)} is not an invocation's ID (inv_1…); for a key of an object, give both: "
            "awakeables why OBJECT KEY"
        )
    client = ServiceClient(config, url)
    path = ("invocations", subject, "why") if key is None else ("objects", subject, key)
    reply = client.get(*path).or_exit()
    if json_:
        print_json(reply.text)
        return
    report = _Report(client, Since(SystemClock().now_ms()))
    if key is not None:
        report.key(reply.document)
    elif reply.document["items"]:
        report.chain(reply.document["items"])
    else:
        print_line(f"{subject} has ended; see `awakeables show {subject}`")


class _Report:
    """Prints a block of lines for each invocation, and for each key on the way."""

    def __init__(self, client: ServiceClient, since: Since) -> None:
        self._client = client
        self._since = since
        self._is_first = True

    def chain(self, items: Sequence[dict[str, Any]]) -> None:
        """Print invocations, each of which waits for the next one."""
        for place, item in enumerate(items):
            row = item["invocation"]
            self._block(
                f"{row['id']}  {_target(row)}, {row['status']} for {self._since.past(_since(row))}",
                [*self._waits(item), ("to go on", _commands(item))],
            )
            if row["status"] == "queued":
                # What holds the key is the next one; it is printed with the key.
                status = self._client.get("objects", row["service"], row["key"]).or_exit().document
                self.key(status | {"head": items[place + 1 :]})
                return

    def key(self, status: dict[str, Any]) -> None:
        """Print who holds a key, what for, and who waits behind; then what its holder waits for."""
        name, key = status["object"], status["key"]
        paused = "" if status["paused"] is None else f"paused for {self._since.past(status['paused'])}"
        arguments = _arguments(name, key)
        if status["paused"] is None:
            switch = ("to hold", f"awakeables objects pause {arguments}")
        else:
            switch = ("to resume", f"awakeables objects resume {arguments}")
        if not status["head"]:
            free = "free: nothing holds it" if not status["in_line"] else "not held at the moment"
            lines = [*self._in_line(status, "in line", status["length"]), switch]
            self._block(f"{name}/{key}  {paused or free}", lines)
            return
        [item, *others] = status["head"]
        row = item["invocation"]
        held = "" if status["since"] is None else f" for {self._since.past(status['since'])}"
        self._block(
            f"{name}/{key}  held{held} by {row['id']} ({row['handler']}), {row['status']}"
            + (f"; {paused}" if paused else ""),
            [
                *self._waits(item),
                *self._in_line(status, "behind it", status["length"] - 1),
                ("to go on", _commands(item)),
                switch,
            ],
        )
        self.chain(others)

    def _block(self, head: str, lines: Sequence[tuple[str, str]]) -> None:
        if not self._is_first:
            print_line("")
        self._is_first = False
        print_line(head)
        for label, text in lines:
            print_line(f"  {label:<9}  {text}")

    def _waits(self, item: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """What an invocation waits for, and why it failed."""
        row = item["invocation"]
        if row["reason"] is not None:
            yield "because", row["reason"]
        if row["pausing"] is not None:
            comes = "when its turn comes" if row["status"] == "queued" else "at its next wait"
            yield "paused", f"{comes}, as asked {self._since.past(row['pausing'])} ago"
        if item["pause"] is not None:
            yield "paused", f"{item['pause']['target']}, for {self._since.past(item['pause']['since'])}"
        found = [self._wait(wait) for wait in item["waits"][:MOST_WAITS]]
        if len(item["waits"]) > MOST_WAITS:
            found.append("and others: see --json")
        if row["status"] == "queued":
            found.append(f"its turn at {row['service']}/{row['key']}")
        elif row["due"] is not None:
            left = self._since.left(row["due"])
            what = {"suspended": "a timer", "backing-off": "its next attempt"}.get(row["status"], "its start")
            found.append(f"{what}, {'due now' if left is None else f'in {left}'}")
        for place, text in enumerate(found):
            yield ("" if place else "waits for"), text

    def _wait(self, wait: dict[str, Any]) -> str:
        past = self._since.past(wait["created"])
        if wait["invocation"] is not None:
            return f"{wait['invocation']}  which it called {past} ago"
        if wait["promise"] is not None:
            return f"promise {wait['promise']!r}, for {past}: a handler of its workflow settles it"
        named = _TYPE.fullmatch(wait["type"] or "")
        what = named[1] if named else "an answer"
        if wait["topic"] is not None:
            what += f" (topic {wait['topic']})"
        text = f"{wait['id']}  {what}, asked {past} ago"
        if wait["heartbeat"] is not None:
            text += f", last heartbeat {self._since.past(wait['heartbeat'])} ago"
        elif wait["heartbeat_timeout_ms"] is not None:
            text += ", no heartbeat yet"
        if wait["deadline"] is None:
            return text
        left = self._since.left(wait["deadline"])
        return f"{text}, {'its deadline has passed' if left is None else f'times out in {left}'}"

    def _in_line(self, status: dict[str, Any], label: str, count: int) -> Iterator[tuple[str, str]]:
        """How many invocations wait for a key, the next one, and how many there are of each handler."""
        rows = status["in_line"]
        if not rows:
            return
        following = rows[0]
        past = self._since.past(_since(following))
        yield (
            label,
            f"{count:,} {'call' if count == 1 else 'calls'}, the next is {following['id']} "
            f"({following['handler']}), for {past}",
        )
        if len(rows) > 1:
            counted = Counter(row["handler"] for row in rows).most_common()
            which = ", ".join(f"{many} {handler}" for handler, many in counted)
            yield "", which if len(rows) >= count else f"of the first {len(rows)}: {which}"


def _since(row: dict[str, Any]) -> str:
    """Since when an invocation has its status."""
    instant: str = row["updated"]
    return instant


def _target(row: dict[str, Any]) -> str:
    """The handler, and if it has one the key that it was called for."""
    return "/".join(part for part in (row["service"], row["key"], row["handler"]) if part is not None)


def _commands(item: dict[str, Any]) -> str:
    """What makes an invocation go on, or ends it."""
    row = item["invocation"]
    verbs = ["cancel", "kill"]
    if row["status"] in ("paused", "backing-off") or row["pausing"] is not None:
        verbs.insert(0, "resume")
    commands = [f"awakeables {verb} {row['id']}" for verb in verbs]
    if item["pause"] is not None:
        commands.insert(0, f"awakeables resume {item['pause']['target']}")
    awaited = [each["id"] for each in item["waits"] if each["invocation"] is None and each["promise"] is None]
    if awaited:
        commands.insert(0, f"awakeables resolve {awaited[0] if len(awaited) == 1 else 'ID'}")
    return " | ".join(commands)


def _arguments(name: str, key: str) -> str:
    """An object and a key, as a shell takes them."""
    return f"{name} {'-- ' if key.startswith('-') else ''}{shlex.quote(key)}"
