"""`verify`: hold every invariant against the rows of the store."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from awakeables.cli.options import AsJson, Config, Kafka, StoreOption, settings_for
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import exit_with_error, print_json, print_line, print_note, print_table
from awakeables.errors import KeyMissing
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.world import SystemClock

if TYPE_CHECKING:
    from awakeables.core.invariants.findings import Findings
    from awakeables.settings import Settings

TABLE = TableLayout(
    names=("number", "looked_at", "violations", "title"),
    titles={"number": "invariant", "looked_at": "looked at", "title": "what holds"},
    prose="title",
)


def verify(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:APP]",
            help="Also check that the store belongs to this app; needed for --topics.",
            show_default=False,
        ),
    ] = None,
    topics: Annotated[
        bool,
        typer.Option(
            "--topics",
            help="Also read the completions topic and the task topics, and look up what their records name.",
        ),
    ] = False,
    kafka: Kafka = None,
    store: StoreOption = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Read the whole store and check every invariant, whether or not the service is running.

    Exits with 1 if one is violated. What each line means: docs/operations.md.
    """
    settings = settings_for(config, store=store, kafka=kafka)
    served = None if app is None else load(app, App, "app")
    if topics and served is None:
        exit_with_error("--topics needs the app, whose topics they are, as in `verify shop:app --topics`")
    try:
        findings = asyncio.run(_findings(settings, served, topics=topics))
    except KeyMissing:
        if served is None:
            exit_with_error(
                "the store has sealed values: name the app, whose codec opens them, as in `verify shop:app`"
            )
        raise
    if json_:
        print_json(msgspec.json.encode(_document(findings)))
    else:
        _print(findings)
    if findings.counts:
        raise typer.Exit(1)


async def _findings(settings: Settings, app: App | None, *, topics: bool) -> Findings:
    from awakeables.doctor.topicverification import TopicVerification
    from awakeables.doctor.verification import verify as verify_store
    from awakeables.runtime import audit_of, connection_of

    audit = audit_of(settings, app, SystemClock())
    retention_ms = round(settings.retention / timedelta(milliseconds=1))
    findings = await verify_store(audit, retention_ms=retention_ms)
    if app is not None and topics:
        verification = TopicVerification(
            connection_of(settings, "awakeables-verify"),
            findings,
            completions=app.completions_topic,
            retention_ms=retention_ms,
        )
        await verification.check(audit, max_unpacked_bytes=settings.max_unpacked_bytes)
    return findings


def _rows(findings: Findings) -> list[dict[str, Any]]:
    from awakeables.core.invariants.findings import INVARIANTS

    return [
        {
            "number": each.number,
            "title": each.title,
            "looked_at": findings.looked_at[each.number],
            "violations": findings.counts[each.number],
        }
        for each in INVARIANTS
    ]


def _document(findings: Findings) -> dict[str, Any]:
    return {
        "rows": dict(findings.rows),
        "invariants": _rows(findings),
        "violations": [
            {"number": each.invariant, "id": each.id, "text": each.text} for each in findings.violations
        ],
        "notes": findings.notes,
    }


def _print(findings: Findings) -> None:
    print_table(TABLE, _rows(findings), none="")
    for violation in findings.violations:
        print_line(f"{violation.invariant}: {violation.id} {violation.text}")
    for number, count in findings.counts.items():
        more = count - len(findings.named[number])
        if more:
            print_line(f"{number}: and {more} more")
    for note in findings.notes:
        print_note(f"note: {note}")
    violations = findings.counts.total()
    print_line(f"verified: {findings.rows.total()} rows, {violations} violation{'s' * (violations != 1)}")
