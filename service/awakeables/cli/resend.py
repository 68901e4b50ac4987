"""Resend several records: `dead-letters resend`, `outbox resend`."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from awakeables.cli.client import ServiceClient
from awakeables.cli.terminal import print_json, print_line, print_note


def resend_each(client: ServiceClient, noun: str, ids: Iterable[str], *, json_: bool) -> None:
    """Resend each record. If one can't be resent, the others still are, and the command exits with 1."""
    failed = 0
    for id_ in ids:
        reply = client.post(noun, id_, "resend")
        if reply.problem is not None:
            failed += 1
            print_note(f"{id_}: {reply.problem}")
        elif json_:
            print_json(reply.text)
        else:
            print_line(f"{id_}: queued for {reply.document['topic']}")
    if failed:
        raise typer.Exit(1)
