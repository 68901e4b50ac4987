"""The rows of one SQLite transaction: an overlay of what was read and put, written in bulk.

A group commit touches the same rows several times and many rows of one kind. So every row is
read at most once, those of a whole group with one query per table (`prefetch`), and what was put
is written by `flush`, at the end or when a search must see it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from awakeables.core.acts import Acts
from awakeables.core.awakeables import Awakeable
from awakeables.core.ids import EFFECT_KINDS, first_id
from awakeables.core.invocations import NO_INSTANT_MS, SUSPECT_STARTS, End, Invocation
from awakeables.core.orders import (
    Advance,
    Begin,
    Cancel,
    DeadLetter,
    Effect,
    Idempotency,
    Kill,
    Member,
    Position,
    Purge,
    QueuedEffect,
    Release,
    ReplayDry,
    Resume,
    Settle,
)
from awakeables.store.sqlite import rows
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.rows import Row
from awakeables.store.sqlite.tally import FAILED, LETTERS, PENDING, UNSENT, Tally

_json = msgspec.json.Encoder().encode


def id_list(ids: Iterable[str]) -> str:
    """A list of IDs as one parameter, for `json_each`."""
    return _json(list(ids)).decode()


def _needed_by(advance: Advance) -> list[str]:
    """The awakeables that an owner's commit is about and does not bring along."""
    ids = list(advance.next.abandoned) if isinstance(advance.next, End) else []
    if advance.effects:
        new = {awakeable.id for awakeable in advance.awakeables}
        carried = (effect.task.awakeable_id for effect in advance.effects if effect.task is not None)
        ids.extend(key for key in carried if key not in new)
    return ids


class _Keyed(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=_Keyed)


class Overlay(Generic[R]):
    """The rows of one table that the transaction has seen: as they are now, and as stored."""

    def __init__(self, connection: sqlite3.Connection, table: str, decode: Callable[[Row], R]) -> None:
        """Read by the queries `<table>` (one ID) and `<table>s` (a list of IDs)."""
        self._connection = connection
        self._one = QUERIES[table]
        self._many = QUERIES[table + "s"]
        self._decode = decode
        self._now: dict[str, R | None] = {}
        self._stored: dict[str, R] = {}
        self._put: dict[str, R] = {}

    def get(self, key: str) -> R | None:
        try:
            return self._now[key]
        except KeyError:
            self.load(self._connection.execute(self._one, (key,)))
            return self._now.setdefault(key, None)

    def put(self, row: R) -> None:
        self._now[row.id] = row
        self._put[row.id] = row

    def prefetch(self, keys: Iterable[str]) -> None:
        """Read these rows with one query, if there are several that were not yet read."""
        missing = {key for key in keys if key not in self._now}
        if len(missing) > 1:
            self.load(self._connection.execute(self._many, (id_list(sorted(missing)),)))
            for key in missing:
                self._now.setdefault(key, None)

    def load(self, found: Iterable[Row]) -> list[R]:
        """Take rows in as they are stored; nothing may wait to be written over them."""
        loaded = [self._decode(row) for row in found]
        for row in loaded:
            self._now[row.id] = self._stored[row.id] = row
        return loaded

    def forget(self, keys: Iterable[str]) -> None:
        """These rows were deleted; nothing waits to be written over them."""
        for key in keys:
            self._now[key] = None
            self._stored.pop(key, None)

    def take_changes(self) -> list[tuple[R | None, R]]:
        """What is to be written: the row as it is stored (None: not at all), and as it is now."""
        changes = [(self._stored.get(key), row) for key, row in self._put.items()]
        self._stored.update(self._put)
        self._put.clear()
        return changes


class SqliteTables:
    """`Tables` over the connection of a transaction that has begun.

    Attributes:
        tally: By how much the transaction has changed the numbers of rows that are tallied.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._invocations = Overlay(connection, "invocation", rows.invocation_from)
        self._awakeables = Overlay(connection, "awakeable", rows.awakeable_from)
        self._chunks: list[Row] = []
        self._keys: dict[tuple[bytes, bytes], tuple[str, str]] = {}
        self._schemas: dict[str, bytes] = {}
        self._effects: dict[str, Row] = {}
        self._dropped: set[str] = set()
        self._letters: dict[str, Row] = {}
        self._positions: dict[tuple[str, int], Row] = {}
        self.tally: Tally = Counter()

    # ── reading ahead ───────────────────────────────────────────────────────────────────────

    def prefetch(self, members: Sequence[Member]) -> None:
        """Read what these members will need with one query per table."""
        invocation_ids: list[str] = []
        awakeable_ids: list[str] = []
        for member in members:
            match member:
                case Begin():
                    invocation_ids.append(member.id)
                case Advance():
                    invocation_ids.append(member.invocation_id)
                    awakeable_ids.extend(_needed_by(member))
                case Resume() | Cancel() | Kill() | ReplayDry():
                    invocation_ids.append(member.invocation_id)
                case Purge():
                    invocation_ids.extend(ended.id for ended in member.ended)
                case Settle():
                    awakeable_ids.extend(completion.awakeable_id for completion in member.completions)
                case Release(ids=tuple() as ids):
                    invocation_ids.extend(ids)
                case _:
                    pass
        self._awakeables.prefetch(awakeable_ids)
        pending = (self._awakeables.get(key) for key in awakeable_ids)
        invocation_ids.extend(row.invocation_id for row in pending if row and row.state == "pending")
        self._invocations.prefetch(invocation_ids)

    # ── invocations ─────────────────────────────────────────────────────────────────────────

    def invocation(self, invocation_id: str) -> Invocation | None:
        return self._invocations.get(invocation_id)

    def put_invocation(self, row: Invocation) -> None:
        self._invocations.put(row)

    def due(self, now_ms: int, limit: int, *, suspects: bool) -> list[Invocation]:
        self.flush()
        merged = (NO_INSTANT_MS, limit)
        if suspects:
            found = self._connection.execute(QUERIES["due_suspects"], (now_ms, SUSPECT_STARTS, *merged))
        else:
            wanted = (SUSPECT_STARTS, limit, now_ms, SUSPECT_STARTS, limit, *merged)
            found = self._connection.execute(QUERIES["due_invocations"], wanted)
        return self._invocations.load(found)

    def running(self) -> list[Invocation]:
        self.flush()
        return self._invocations.load(self._connection.execute(QUERIES["running_invocations"]))

    def add_chunk(self, invocation_id: str, version: int, chunk: bytes, at_ms: int) -> None:
        self._chunks.append((invocation_id, version, chunk, at_ms))

    def chunks(self, invocation_id: str) -> list[bytes]:
        self.flush()
        return [chunk for (chunk,) in self._connection.execute(QUERIES["chunks"], (invocation_id,))]

    def forget(self, invocation_ids: Sequence[str], awakeable_ids: Sequence[str]) -> None:
        self.flush()
        doomed = id_list(invocation_ids)
        for query in ("forget_invocations", "forget_journals", "forget_idempotent"):
            self._connection.execute(QUERIES[query], (doomed,))
        forgotten = (id_list(awakeable_ids),)
        (pending,) = self._connection.execute(QUERIES["count_pending"], forgotten).fetchone()
        self.tally[PENDING] -= pending
        self._connection.execute(QUERIES["forget_awakeables"], forgotten)
        self._invocations.forget(invocation_ids)
        self._awakeables.forget(awakeable_ids)

    def idempotent(self, scope: str, key: str) -> tuple[str, str] | None:
        wanted = (rows.text_bytes(scope), rows.text_bytes(key))
        if wanted in self._keys:
            return self._keys[wanted]
        found: tuple[str, str] | None = self._connection.execute(QUERIES["idempotent"], wanted).fetchone()
        return found

    def add_idempotent(self, idempotency: Idempotency, invocation_id: str) -> None:
        wanted = (rows.text_bytes(idempotency.scope), rows.text_bytes(idempotency.key))
        self._keys[wanted] = (idempotency.fingerprint, invocation_id)

    # ── awakeables ──────────────────────────────────────────────────────────────────────────

    def awakeable(self, awakeable_id: str) -> Awakeable | None:
        return self._awakeables.get(awakeable_id)

    def put_awakeable(self, row: Awakeable) -> None:
        self._awakeables.put(row)

    def overdue(self, horizon_ms: int, limit: int) -> list[Awakeable]:
        self.flush()
        found = self._connection.execute(QUERIES["overdue_awakeables"], (horizon_ms, limit))
        overdue = self._awakeables.load(found)
        self._invocations.prefetch(row.invocation_id for row in overdue)
        return overdue

    def add_schema(self, schema_hash: str, schema: bytes) -> None:
        self._schemas.setdefault(schema_hash, schema)

    # ── effects ─────────────────────────────────────────────────────────────────────────────

    def add_effect(self, effect: Effect, owner: str) -> None:
        self._effects.setdefault(effect.event_id, rows.effect_row(effect, owner))

    def unclaimed(self, owner: str, limit: int) -> list[Effect]:
        self.flush()
        execute = self._connection.execute
        holders = execute(QUERIES["other_holders"], (owner,)).fetchall()
        if not holders:
            return []
        oldest = sorted(
            row for (name,) in holders for row in execute(QUERIES["oldest_of_holder"], (name, limit))
        )
        streams = id_list(sorted({stream for _, stream in oldest[:limit]}))
        found = execute(QUERIES["unclaimed_of_streams"], (streams, owner)).fetchall()
        effects = [rows.effect_from(row) for row in found]
        self._connection.executemany(
            QUERIES["claim_effect"], [(owner, effect.event_id) for effect in effects]
        )
        return effects

    def effect(self, event_id: str) -> Effect | None:
        self.flush()
        row = self._connection.execute(QUERIES["effect"], (event_id,)).fetchone()
        return None if row is None else rows.effect_from(row)

    def drop_effect(self, event_id: str) -> None:
        self._effects.pop(event_id, None)
        self._dropped.add(event_id)

    def fail_effect(self, event_id: str, reason: str) -> None:
        self.flush()
        self._move_effect(UNSENT, FAILED, "fail_effect", rows.text_bytes(reason), event_id)

    def queued_effect(self, event_id: str) -> QueuedEffect | None:
        self.flush()
        row = self._connection.execute(QUERIES["queued_effect"], (event_id,)).fetchone()
        return None if row is None else rows.queued_effect_from(row)

    def requeue_effect(self, event_id: str, owner: str, acts: Acts) -> None:
        self.flush()
        self._move_effect(FAILED, UNSENT, "requeue_effect", owner, rows.acts_bytes(acts), event_id)

    def _move_effect(self, before: str, after: str, query: str, *values: object) -> None:
        moved = self._connection.execute(QUERIES[query], values).rowcount
        self.tally[before] -= moved
        self.tally[after] += moved

    # ── completions topic ───────────────────────────────────────────────────────────────────

    def has_dead_letter(self, source: str) -> bool:
        if source in self._letters:
            return True
        return self._connection.execute(QUERIES["has_dead_letter"], (source,)).fetchone() is not None

    def add_dead_letter(self, letter: DeadLetter) -> None:
        self._letters[letter.source] = rows.dead_letter_row(letter) + rows.dead_letter_span(letter)

    def dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        self.flush()
        row = self._connection.execute(QUERIES["dead_letter"], (dead_letter_id,)).fetchone()
        return None if row is None else rows.dead_letter_from(row)

    def put_dead_letter(self, letter: DeadLetter) -> None:
        acts = rows.acts_bytes(letter.acts)
        noted = (letter.resent, acts, *rows.dead_letter_span(letter), letter.id)
        self._connection.execute(QUERIES["note_dead_letter"], noted)

    def forget_letters(self, before_ms: int, limit: int, code: str | None) -> int:
        self.flush()
        before = first_id("dlq", before_ms)
        if code is None:
            found = self._connection.execute(QUERIES["forget_dead_letters"], (before, limit))
        else:
            found = self._connection.execute(QUERIES["forget_dead_letters_of"], (code, before, limit))
        letters = found.rowcount
        self.tally[LETTERS] -= letters
        return letters

    def forget_refused(self, before_ms: int, limit: int) -> int:
        self.flush()
        execute = self._connection.execute
        ranges = [(f"{kind}_", first_id(kind, before_ms), limit) for kind in EFFECT_KINDS]
        failed = sum(execute(QUERIES["forget_failed"], range_).rowcount for range_ in ranges)
        self.tally[FAILED] -= failed
        return failed

    def position(self, topic: str, partition: int) -> Position | None:
        row = self._positions.get((topic, partition))
        found = row and row[1:5]
        if found is None:
            found = self._connection.execute(QUERIES["position"], (topic, partition)).fetchone()
        return None if found is None else rows.position_from(found)

    def put_position(self, topic: str, position: Position, owner: str | None = None) -> None:
        key = (topic, position.partition)
        if owner is None and key in self._positions:
            owner = self._positions[key][5]
        self._positions[key] = (*key, position.next, position.epoch, position.again_before, owner)

    # ── writing ─────────────────────────────────────────────────────────────────────────────

    def probe(self) -> None:
        """Add a row and delete it: its pages must be found, and the changed ones are written to the log."""
        for query in ("add_probe", "drop_probe"):
            self._connection.execute(QUERIES[query])

    def flush(self) -> None:
        """Write what was put; later reads of this transaction find it in the tables."""
        self._flush_invocations()
        self._flush_awakeables()
        self._write("insert_chunk", self._chunks)
        self._chunks.clear()
        self._write("insert_idempotent", [(*key, *value) for key, value in self._keys.items()])
        self._keys.clear()
        self._write("insert_schema", list(self._schemas.items()))
        self._schemas.clear()
        dropped: list[Row] = [(event_id,) for event_id in sorted(self._dropped)]
        self.tally[FAILED] -= self._write("drop_failed", dropped)
        self.tally[UNSENT] -= self._write("drop_effect", dropped)
        self._dropped.clear()
        self.tally[UNSENT] += self._write("insert_effect", list(self._effects.values()))
        self._effects.clear()
        self.tally[LETTERS] += self._write("insert_dead_letter", list(self._letters.values()))
        self._letters.clear()
        self._write("put_position", list(self._positions.values()))
        self._positions.clear()

    def _flush_invocations(self) -> None:
        new: list[Row] = []
        progressed: list[Row] = []
        moved: list[Row] = []
        ended: list[Row] = []
        for old, row in self._invocations.take_changes():
            if old is None:
                self.tally[row.status] += 1
                new.append(rows.invocation_row(row))
                continue
            if old.status != row.status:
                self.tally[old.status] -= 1
                self.tally[row.status] += 1
            progress, key = rows.invocation_progress(row), (row.id,)
            if old.result is not row.result:
                place = rows.invocation_place(row)
                ended.append(progress + place + rows.invocation_result(row) + key)
            elif (place := rows.invocation_place(row)) != rows.invocation_place(old):
                moved.append(progress + place + key)
            else:
                progressed.append(progress + key)
        self._write("insert_invocation", new)
        self._write("update_invocation", progressed)
        self._write("move_invocation", moved)
        self._write("end_invocation", ended)

    def _flush_awakeables(self) -> None:
        new: list[Row] = []
        noted: list[Row] = []
        settled: list[Row] = []
        placed: list[Row] = []
        for old, row in self._awakeables.take_changes():
            if old is None:
                self.tally[PENDING] += row.state == "pending"
                new.append(rows.awakeable_row(row))
                continue
            if old.topic != row.topic:
                placed.append((row.topic, row.id))
            if old.state == row.state:
                noted.append((*rows.awakeable_notes(row), row.id))
            else:
                self.tally[PENDING] -= 1
                settled.append((*rows.awakeable_notes(row), *rows.awakeable_settlement(row), row.id))
        self._write("insert_awakeable", new)
        self._write("note_awakeable", noted)
        self._write("settle_awakeable", settled)
        self._write("place_awakeable", placed)

    def _write(self, name: str, values: list[Row]) -> int:
        """How many rows it has changed."""
        return self._connection.executemany(QUERIES[name], values).rowcount if values else 0
