"""Sending several records again: `dead-letters resend`, `outbox resend`."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.terminal import print_json, say, tell


def resend_each(client: ServiceClient, noun: str, ids: Iterable[str], *, json_: bool) -> None:
    """Send these again; one that can't be sent doesn't keep the others back, and exits with 1."""
    refused = 0
    for id_ in ids:
        answer = client.post(noun, id_, "resend")
        if answer.problem is not None:
            refused += 1
            tell(f"{id_}: {answer.problem}")
        elif json_:
            print_json(answer.text)
        else:
            say(f"{id_}: on its way to {answer.document['topic']}")
    if refused:
        raise typer.Exit(1)
