"""Writes the changes of a commit: a few statements per table, each guarded by the values that were read."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from msgspec.structs import astuple

from awakeables.core.effects import EffectState
from awakeables.core.records import text_bytes
from awakeables.core.rows import Changes
from awakeables.store.sqlite.counts import FAILED, LETTERS, PENDING, UNSENT, RowCounts
from awakeables.store.sqlite.loading import id_list
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.rows import Columns, dead_letter_notes, dead_letter_row

STATES: dict[EffectState, str] = {"unsent": UNSENT, "failed": FAILED}
"""The counter for effects in each state."""


class StaleRows(Exception):
    """A guard failed: the rows are not as they were cached. Load them and decide again."""


class ChangeWriter:
    """Writes changes in the open transaction, and counts how the numbers of rows change.

    Attributes:
        counts: The changes in numbers of rows.
        wrote: Whether anything was written.
    """

    def __init__(self, connection: sqlite3.Connection, schemas: set[str]) -> None:
        """Write to this connection; `schemas` are the hashes of schemas that are already stored."""
        self._connection = connection
        self._schemas = schemas
        self.counts: RowCounts = RowCounts()
        self.wrote = False

    def write(self, changes: Changes) -> None:
        """Write everything.

        Raises:
            StaleRows: A guard failed.
            sqlite3.IntegrityError: A row that should be new exists.
        """
        if changes.invocations:
            self._invocations(changes)
        if changes.chunks:
            self._write("insert_chunk", changes.chunks)
        if changes.awakeables:
            self._awakeables(changes)
        if changes.schemas:
            self._new_schemas(changes)
        if changes.published:
            self._published(changes.published)
        if changes.effects:
            self._effects(changes)
        if changes.positions:
            self._positions(changes)
        if changes.keys or changes.dead_letters:
            self._letters_and_keys(changes)
        if changes.purged or changes.deleted_dead_letters or changes.deleted_effects:
            self._deleted(changes)
        for _ in range(changes.probes):
            self._run("add_probe")
            self._run("drop_probe")

    def _invocations(self, changes: Changes) -> None:
        known, counts = changes.rows.invocations, self.counts
        new: list[Columns] = []
        updated: list[Columns] = []
        moved: list[Columns] = []
        ended: list[Columns] = []
        for key, before in changes.invocations.items():
            row = known[key]
            assert row is not None
            if before is None:
                counts[row.status] += 1
                new.append(astuple(row))
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
                updated.append((*progress, *guard))
                continue
            place = (row.status, row.owner, row.due_ms, row.cancelled_ms, row.acts_json)
            if row.result_json is before.result_json:
                moved.append((*progress, *place, *guard))
            else:
                ended.append((*progress, *place, row.result_json, row.ended_ms, *guard))
        self._write("insert_invocation", new)
        self._write("update_invocation", updated)
        self._write("move_invocation", moved)
        self._write("end_invocation", ended)

    def _awakeables(self, changes: Changes) -> None:
        known = changes.rows.awakeables
        new: list[Columns] = []
        noted: list[Columns] = []
        settled: list[Columns] = []
        for key, before in changes.awakeables.items():
            row = known[key]
            assert row is not None
            if before is None:
                self.counts[PENDING] += row.state == "pending"
                new.append(astuple(row))
            elif row.state == before.state:
                noted.append(
                    (
                        row.verdicts_json,
                        row.heartbeat_json,
                        row.topic,
                        key,
                        before.state,
                        before.verdicts_json,
                    )
                )
            else:
                self.counts[PENDING] -= 1
                change = (row.state, row.settled_ms, row.settled_by, row.outcome_json)
                notes = (row.verdicts_json, row.heartbeat_json, row.topic)
                settled.append((*notes, *change, key, before.state, before.verdicts_json))
        self._write("insert_awakeable", new)
        self._write("note_awakeable", noted)
        self._write("settle_awakeable", settled)

    def _new_schemas(self, changes: Changes) -> None:
        new = [each for each in changes.schemas.items() if each[0] not in self._schemas]
        if new:
            self._connection.executemany(QUERIES["insert_schema"], new)
            self.wrote = True
            self._schemas.update(changes.schemas)

    def _published(self, event_ids: Sequence[str]) -> None:
        """Delete effects in either state; failed ones, which are rare, are looked for only if needed."""
        ids = [(event_id,) for event_id in event_ids]
        deleted = self._many("delete_unsent", ids)
        self.counts[UNSENT] -= deleted
        if deleted != len(ids):
            self.counts[FAILED] -= self._many("delete_failed", ids)

    def _effects(self, changes: Changes) -> None:
        known, counts = changes.rows.effects, self.counts
        new: list[Columns] = []
        claimed: list[Columns] = []
        updated: list[Columns] = []
        deleted: dict[str, list[Columns]] = {UNSENT: [], FAILED: []}
        for key, before in changes.effects.items():
            row = known[key]
            if before is None:
                if row is not None:
                    counts[STATES[row.state]] += 1
                    new.append(astuple(row))
                continue
            counts[STATES[before.state]] -= 1
            if row is None:
                deleted[STATES[before.state]].append((key,))
                continue
            counts[STATES[row.state]] += 1
            if row.state == before.state:
                claimed.append((row.claimed_by, key, before.state, before.claimed_by))
            else:
                change = (row.state, row.claimed_by, row.reason_utf8, row.acts_json, row.position)
                updated.append((*change, key, before.state, before.claimed_by))
        self._write("delete_unsent", deleted[UNSENT])
        self._write("delete_failed", deleted[FAILED])
        self._write("insert_effect", new)
        self._write("claim_effect", claimed)
        self._write("update_effect", updated)

    def _positions(self, changes: Changes) -> None:
        new: list[Columns] = []
        moved: list[Columns] = []
        for key, before in changes.positions.items():
            row = changes.rows.positions[key]
            assert row is not None
            if before is None:
                new.append(astuple(row))
            else:
                change = (row.next, row.epoch, row.owner, row.again_before)
                moved.append((*change, *key, before.next, before.epoch))
        self._write("insert_position", new)
        self._write("update_position", moved)

    def _letters_and_keys(self, changes: Changes) -> None:
        new: list[Columns] = []
        noted: list[Columns] = []
        for key, before in changes.dead_letters.items():
            letter = changes.rows.dead_letters[key]
            assert letter is not None
            if before is None:
                new.append(dead_letter_row(letter))
            else:
                noted.append((*dead_letter_notes(letter), key, before.resent, before.count))
        self._write("insert_dead_letter", new)
        self.counts[LETTERS] += len(new)
        self._write("update_dead_letter", noted)
        keys = [(key, changes.rows.keys[key]) for key in changes.keys]
        known = [(*map(text_bytes, key), *value) for key, value in keys if value is not None]
        self._write("insert_idempotent", known)

    def _deleted(self, changes: Changes) -> None:
        if changes.purged:
            ids = id_list([ended.id for ended in changes.purged])
            for query in ("delete_invocations", "delete_journals", "delete_idempotent"):
                self._run(query, ids)
            awakeables = id_list([key for ended in changes.purged for key in ended.awakeables])
            (pending,) = self._connection.execute(QUERIES["count_pending"], (awakeables,)).fetchone()
            self.counts[PENDING] -= pending
            self._run("delete_awakeables", awakeables)
        if changes.deleted_dead_letters:
            self.counts[LETTERS] -= self._run("delete_dead_letters", id_list(changes.deleted_dead_letters))
        if changes.deleted_effects:
            self.counts[FAILED] -= self._run("delete_effects", id_list(changes.deleted_effects))

    def _run(self, name: str, *values: str) -> int:
        self.wrote = True
        return self._connection.execute(QUERIES[name], values).rowcount

    def _many(self, name: str, values: Sequence[Columns]) -> int:
        self.wrote = True
        return self._connection.executemany(QUERIES[name], values).rowcount

    def _write(self, name: str, values: Sequence[Columns]) -> None:
        if values and self._many(name, values) != len(values):
            raise StaleRows(name)
