"""The queries of readers: one statement each, so that each sees one consistent state.

Rows of lists are made brief one by one, so that only one large field is in memory at a time.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence

from awakeables.core.awakeables import AwakeableRow, State
from awakeables.core.brief import brief_awakeable, brief_dead_letter, brief_effect, brief_invocation
from awakeables.core.commands import Ended
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, EffectState, QueuedEffect
from awakeables.core.ids import EFFECT_KINDS, by_issue
from awakeables.core.invocations import Invocation, Status
from awakeables.core.journal import Entry, awakeables_created, decode_chunks
from awakeables.core.outcomes import Outcome, decode_outcome
from awakeables.core.records import text_bytes, text_from
from awakeables.core.replies import Position
from awakeables.core.rows import EffectRow, PositionRow
from awakeables.ports import Expectation, Page
from awakeables.store.batches import beginning_of, first_of
from awakeables.store.rows import dead_letter_from, expectation_from
from awakeables.store.sqlite.loading import id_list, unsent
from awakeables.store.sqlite.queries import QUERIES

_AFTER_ALL = "\U0010ffff"
"""Sorts after every ID, for the page that begins with the newest row."""

_BY_STATUS: dict[Status, str] = {
    "running": "list_running",
    "paused": "list_paused",
    "completed": "list_completed",
}
"""Queries of their own for statuses with few rows, or rows that are not open."""


def history(connection: sqlite3.Connection, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
    journals = _chunks(connection, invocation_ids)
    return {invocation_id: decode_chunks(chunks) for invocation_id, chunks in journals.items()}


def journal(connection: sqlite3.Connection, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
    found = connection.execute(QUERIES["chunks"], (invocation_id,))
    chunks, whole = beginning_of((chunk for (chunk,) in found), most_bytes)
    return decode_chunks(chunks), whole


def _chunks(connection: sqlite3.Connection, invocation_ids: Sequence[str]) -> dict[str, list[bytes]]:
    chunks: dict[str, list[bytes]] = defaultdict(list)
    for invocation_id, chunk in connection.execute(QUERIES["history"], (id_list(set(invocation_ids)),)):
        chunks[invocation_id].append(chunk)
    return chunks


def outcomes(connection: sqlite3.Connection, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
    found = connection.execute(QUERIES["outcomes"], (id_list(awakeable_ids),))
    return {awakeable_id: decode_outcome(outcome) for awakeable_id, outcome in found}


def held_by(connection: sqlite3.Connection, owner: str) -> list[str]:
    return [invocation_id for (invocation_id,) in connection.execute(QUERIES["held_by"], (owner,))]


def ends(connection: sqlite3.Connection, invocation_ids: Sequence[str]) -> dict[str, Outcome | None]:
    found = connection.execute(QUERIES["invocations"], (id_list(invocation_ids),))
    rows = [Invocation(*columns) for columns in found]
    return {row.id: row.result for row in rows if row.status in ("completed", "paused")}


def expectations(connection: sqlite3.Connection, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
    found = connection.execute(QUERIES["expectations"], (id_list(awakeable_ids),))
    return {awakeable_id: expectation_from(columns) for awakeable_id, *columns in found}


def effects(connection: sqlite3.Connection, owner: str, limit: int) -> list[Effect]:
    return [row.effect for row in unsent(connection, owner, limit)]


def ended(connection: sqlite3.Connection, before_ms: int, limit: int) -> list[Ended]:
    # Two statements are safe here: an ended invocation does not change until it is purged.
    keys = first_of(connection.execute(QUERIES["ended"], (before_ms, limit)), limit)
    journals = _chunks(connection, keys)
    return [Ended(id=key, awakeables=tuple(awakeables_created(journals[key]))) for key in keys]


def positions(connection: sqlite3.Connection, topic: str) -> list[Position]:
    return [PositionRow(*row).position for row in connection.execute(QUERIES["positions"], (topic,))]


def invocation(connection: sqlite3.Connection, invocation_id: str) -> Invocation | None:
    row = connection.execute(QUERIES["invocation"], (invocation_id,)).fetchone()
    return None if row is None else Invocation(*row)


def invocations(
    connection: sqlite3.Connection, page: Page, status: Status | None, service: str | None
) -> list[Invocation]:
    before = _AFTER_ALL if page.before is None else page.before
    if status is None:
        found = connection.execute(QUERIES["list_invocations"], (before, service, page.limit))
    else:
        query = QUERIES[_BY_STATUS.get(status, "list_open")]
        found = connection.execute(query, (before, service, status, page.limit))
    return [brief_invocation(Invocation(*row)) for row in found]


def keyed(connection: sqlite3.Connection, scopes: Sequence[str], key: str) -> list[Invocation]:
    found = connection.execute(QUERIES["keyed"], (id_list(scopes), text_bytes(key)))
    briefly = [brief_invocation(Invocation(*row)) for row in found]
    return sorted(briefly, key=lambda row: row.id, reverse=True)


def idempotency_key(connection: sqlite3.Connection, invocation_id: str) -> str | None:
    row = connection.execute(QUERIES["key_of"], (invocation_id,)).fetchone()
    return None if row is None else text_from(row[0])


def awakeable(connection: sqlite3.Connection, awakeable_id: str) -> AwakeableRow | None:
    row = connection.execute(QUERIES["awakeable"], (awakeable_id,)).fetchone()
    return None if row is None else AwakeableRow(*row)


def awakeables(connection: sqlite3.Connection, page: Page, state: State | None) -> list[AwakeableRow]:
    before = _AFTER_ALL if page.before is None else page.before
    if state is None:
        found = connection.execute(QUERIES["list_awakeables"], (before, page.limit))
    elif state == "pending":
        found = connection.execute(QUERIES["list_pending"], (before, page.limit))
    else:
        found = connection.execute(QUERIES["list_settled"], (before, state, page.limit))
    return [brief_awakeable(AwakeableRow(*row)) for row in found]


def dead_letter(connection: sqlite3.Connection, dead_letter_id: str) -> DeadLetter | None:
    row = connection.execute(QUERIES["dead_letter"], (dead_letter_id,)).fetchone()
    return None if row is None else dead_letter_from(row)


def dead_letters(connection: sqlite3.Connection, page: Page) -> list[DeadLetter]:
    before = _AFTER_ALL if page.before is None else page.before
    found = connection.execute(QUERIES["list_dead_letters"], (before, page.limit))
    return [brief_dead_letter(dead_letter_from(row)) for row in found]


def queued_effect(connection: sqlite3.Connection, event_id: str) -> QueuedEffect | None:
    row = connection.execute(QUERIES["effect"], (event_id,)).fetchone()
    return None if row is None else EffectRow(*row).queued


def queued_effects(connection: sqlite3.Connection, page: Page, state: EffectState) -> list[QueuedEffect]:
    query = QUERIES["newest_unsent" if state == "unsent" else "newest_failed"]
    before = _AFTER_ALL if page.before is None else by_issue(page.before)
    effects: list[QueuedEffect] = []
    for kind in EFFECT_KINDS:
        # A statement per kind is safe: an effect's ID never changes its kind between them.
        found = connection.execute(query, (f"{kind}_", f"{kind}_{before}", page.limit))
        effects += [brief_effect(EffectRow(*row).queued) for row in found]
    return sorted(effects, key=lambda effect: by_issue(effect.id), reverse=True)[: page.limit]


def oldest(connection: sqlite3.Connection) -> dict[str, int]:
    """When the oldest row of each kind was created, by the first entries of indexes; left out if none."""
    pending = connection.execute(QUERIES["oldest_pending"]).fetchone() or (None,)
    (unsent,) = connection.execute(QUERIES["oldest_unsent"]).fetchone()
    made = {"awakeables_oldest_ms": pending[0], "effects_oldest_ms": unsent}
    return {name: made_ms for name, made_ms in made.items() if made_ms is not None}
