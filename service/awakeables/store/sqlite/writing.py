"""Writes the changes of a commit: a few statements per table, each guarded by the values that were read."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from msgspec.structs import astuple

from awakeables.core.effects import EffectState
from awakeables.core.records import text_bytes
from awakeables.core.rows import Changes
from awakeables.store.sqlite.counts import FAILED, LETTERS, PENDING, UNSENT
from awakeables.store.sqlite.loading import id_list
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.rows import Columns, dead_letter_notes, dead_letter_row

STATES: dict[EffectState, str] = {"unsent": UNSENT, "failed": FAILED}
"""The counter for effects in each state."""


class StaleRows(Exception):
    """A guard failed: the rows are not as they were cached. Load them and decide again."""


Statements: TypeAlias = defaultdict[str, list[Columns]]
"""The values to run each query with, by its name."""

Counts: TypeAlias = defaultdict[str, int]
"""Changes of the numbers of rows, by kind."""


def write(connection: sqlite3.Connection, changes: Changes, schemas: set[str], counts: Counts) -> bool:
    """Write everything in the open transaction; return whether there was anything to write.

    Args:
        connection: Where to write.
        changes: What to write.
        schemas: Hashes of the schemas that are stored; those that are new are added.
        counts: Where the numbers of rows are changed.

    Raises:
        StaleRows: A guard failed.
        sqlite3.IntegrityError: A row that should be new exists.
    """
    statements: Statements = defaultdict(list)
    if changes.published:
        _delete_published(connection, changes.published, counts)
    if changes.invocations:
        _invocations(changes, statements, counts)
    if changes.chunks:
        statements["insert_chunk"] = changes.chunks
    if changes.awakeables:
        _awakeables(changes, statements, counts)
    if changes.schemas:
        new = [each for each in changes.schemas.items() if each[0] not in schemas]
        connection.executemany(QUERIES["insert_schema"], new)
        schemas.update(changes.schemas)
    if changes.effects:
        _effects(changes, statements, counts)
    if changes.positions:
        _positions(changes, statements)
    if changes.keys or changes.dead_letters:
        _letters_and_keys(changes, statements, counts)
    for name, values in statements.items():
        if connection.executemany(QUERIES[name], values).rowcount != len(values):
            raise StaleRows(name)
    deletes = bool(changes.purged or changes.deleted_dead_letters or changes.deleted_effects)
    if deletes:
        _delete(connection, changes, counts)
    for _ in range(changes.probes):
        connection.execute(QUERIES["add_probe"])
        connection.execute(QUERIES["drop_probe"])
    return bool(statements or changes.published or deletes or changes.probes)


def _invocations(changes: Changes, statements: Statements, counts: Counts) -> None:
    known = changes.rows.invocations
    for key, before in changes.invocations.items():
        row = known[key]
        assert row is not None
        if before is None:
            counts[row.status] += 1
            statements["insert_invocation"].append(astuple(row))
            continue
        progress = (
            row.updated_ms,
            row.epoch,
            row.version,
            row.wake,
            row.starts,
            row.attempts,
            row.committed_by,
            row.commits,
            row.build,
            row.failure_json,
        )
        guard = (key, before.epoch, before.version, before.wake, before.status)
        if row.status != before.status:
            counts[before.status] -= 1
            counts[row.status] += 1
        if (
            row.status is before.status
            and row.owner is before.owner
            and row.due_ms == before.due_ms
            and row.cancelled_ms == before.cancelled_ms
            and row.acts_json is before.acts_json
        ):
            statements["update_invocation"].append((*progress, *guard))
            continue
        place = (row.status, row.owner, row.due_ms, row.cancelled_ms, row.acts_json)
        if row.result_json is before.result_json:
            statements["move_invocation"].append((*progress, *place, *guard))
        else:
            end = (row.result_json, row.ended_ms)
            statements["end_invocation"].append((*progress, *place, *end, *guard))


def _awakeables(changes: Changes, statements: Statements, counts: Counts) -> None:
    known = changes.rows.awakeables
    for key, before in changes.awakeables.items():
        row = known[key]
        assert row is not None
        if before is None:
            counts[PENDING] += row.state == "pending"
            statements["insert_awakeable"].append(astuple(row))
            continue
        notes = (row.verdicts_json, row.heartbeat_json, row.topic)
        guard = (key, before.state, before.verdicts_json)
        if row.state == before.state:
            statements["note_awakeable"].append((*notes, *guard))
        else:
            counts[PENDING] -= 1
            change = (row.state, row.settled_ms, row.settled_by, row.outcome_json)
            statements["settle_awakeable"].append((*notes, *change, *guard))


def _delete_published(connection: sqlite3.Connection, event_ids: Sequence[str], counts: Counts) -> None:
    """Delete effects in either state; failed ones, which are rare, are looked for only if needed."""
    ids = [(event_id,) for event_id in event_ids]
    deleted = connection.executemany(QUERIES["delete_unsent"], ids).rowcount
    counts[UNSENT] -= deleted
    if deleted != len(ids):
        counts[FAILED] -= connection.executemany(QUERIES["delete_failed"], ids).rowcount


def _effects(changes: Changes, statements: Statements, counts: Counts) -> None:
    known = changes.rows.effects
    for key, before in changes.effects.items():
        row = known[key]
        if before is None:
            if row is not None:
                counts[STATES[row.state]] += 1
                statements["insert_effect"].append(astuple(row))
            continue
        counts[STATES[before.state]] -= 1
        if row is None:
            statements[f"delete_{before.state}"].append((key,))
            continue
        counts[STATES[row.state]] += 1
        guard = (key, before.state, before.claimed_by)
        if row.state == before.state:
            statements["claim_effect"].append((row.claimed_by, *guard))
        else:
            change = (row.state, row.claimed_by, row.reason_utf8, row.acts_json, row.position)
            statements["update_effect"].append((*change, *guard))


def _positions(changes: Changes, statements: Statements) -> None:
    for key, before in changes.positions.items():
        row = changes.rows.positions[key]
        assert row is not None
        if before is None:
            statements["insert_position"].append(astuple(row))
        else:
            change = (row.next, row.epoch, row.owner, row.again_before)
            statements["update_position"].append((*change, *key, before.next, before.epoch))


def _letters_and_keys(changes: Changes, statements: Statements, counts: Counts) -> None:
    for letter_id, before in changes.dead_letters.items():
        letter = changes.rows.dead_letters[letter_id]
        assert letter is not None
        if before is None:
            counts[LETTERS] += 1
            statements["insert_dead_letter"].append(dead_letter_row(letter))
        else:
            guard = (letter_id, before.resent, before.count)
            statements["update_dead_letter"].append((*dead_letter_notes(letter), *guard))
    for key in changes.keys:
        known = changes.rows.keys[key]
        if known is not None:
            statements["insert_idempotent"].append((*map(text_bytes, key), *known))


def _delete(connection: sqlite3.Connection, changes: Changes, counts: Counts) -> None:
    def run(name: str, ids: str) -> int:
        return connection.execute(QUERIES[name], (ids,)).rowcount

    if changes.purged:
        ids = id_list([ended.id for ended in changes.purged])
        for query in ("delete_invocations", "delete_journals", "delete_idempotent"):
            run(query, ids)
        awakeables = id_list([key for ended in changes.purged for key in ended.awakeables])
        (pending,) = connection.execute(QUERIES["count_pending"], (awakeables,)).fetchone()
        counts[PENDING] -= pending
        run("delete_awakeables", awakeables)
    if changes.deleted_dead_letters:
        counts[LETTERS] -= run("delete_dead_letters", id_list(changes.deleted_dead_letters))
    if changes.deleted_effects:
        counts[FAILED] -= run("delete_effects", id_list(changes.deleted_effects))
