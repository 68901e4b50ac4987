"""Writes what commands have changed, in one statement that fails whole if a row is not as it was loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, TypeAlias

from msgspec.structs import astuple

from awakeables.core.invocations import Invocation, at_once
from awakeables.core.records import text_bytes
from awakeables.core.rows import Changes
from awakeables.store.postgres.changes import BlindChanges, Woken
from awakeables.store.postgres.connection import Connection
from awakeables.store.postgres.loading import Loaded
from awakeables.store.postgres.queries import QUERIES, renumbered
from awakeables.store.rows import Columns, dead_letter_notes, dead_letter_row
from awakeables.store.sealing import AWAKEABLE, CHUNK, DEAD_LETTER, EFFECT, INVOCATION, REQUEST, STATE, Sealed

GUARD_MS: Final = 5000
"""How old loaded rows may be when they are written: a process that was stopped in between must not write
what it decided long ago."""

NEVER_MS: Final = 2**62

KINDS: Final = (
    "update_positions",
    "hold_schedules",
    "update_schedules",
    "delete_schedules",
    "delete_pauses",
    "hold_objects",
    "update_objects",
    "delete_objects",
    "update_awakeables",
    "delete_awakeables",
    "hold_invocations",
    "update_invocations",
    "wake_invocations",
    "delete_invocations",
    "hold_effects",
    "update_effects",
    "delete_effects",
    "delete_published",
    "update_dead_letters",
    "delete_dead_letters",
    "delete_journals",
    "delete_keys",
    "insert_positions",
    "insert_schedules",
    "insert_pauses",
    "insert_objects",
    "write_states",
    "clear_states",
    "insert_keys",
    "insert_invocations",
    "insert_chunks",
    "insert_schemas",
    "insert_awakeables",
    "insert_dead_letters",
    "insert_effects",
    "probe",
)
"""The fragments of `writing.sql`, in the order in which they lock and write."""

UNCOUNTED: Final = {
    "delete_awakeables",
    "hold_schedules",
    "hold_objects",
    "hold_invocations",
    "hold_effects",
    "clear_states",
    "delete_published",
    "delete_journals",
    "delete_keys",
    "insert_schemas",
}
"""Kinds that may write less than they were sent; any other must write each row."""

SEALED: Final[Mapping[str, Sealed]] = {
    "insert_chunks": CHUNK,
    "insert_invocations": INVOCATION,
    "update_invocations": Sealed("invocations", (0,), {"failure": 14, "result": 15}),
    "insert_awakeables": AWAKEABLE,
    "update_awakeables": Sealed("awakeables", (0,), {"outcome": 5, "book": 6, "beat": 7}),
    "insert_effects": EFFECT,
    "update_effects": Sealed("outbox", (0,), {"reason": 3}),
    "insert_dead_letters": DEAD_LETTER,
    "write_states": STATE,
    "insert_keys": REQUEST,
}
"""Where the values to seal are, by kind."""

_key = itemgetter(slice(3))

Written: TypeAlias = defaultdict[str, list[Columns]]
"""The rows to write by kind, as the columns of the kind's arrays."""


async def write(
    connection: Connection, changes: Changes, loaded: Loaded, schemas: set[str], *, guard: bool = True
) -> Woken:
    """Write the changes; return the counts and owners of the invocations that were woken blindly.

    Args:
        connection: Where to write; without a transaction, what is written is durable.
        changes: The changes.
        loaded: The rows that they were decided on.
        schemas: Hashes of schemas that are known to be stored; those that are written are added.
        guard: Refuse to write what was loaded long ago.

    Raises:
        asyncpg.PostgresError: `errors.STALE` if a row is not as it was loaded.
    """
    written = _written(changes, loaded, schemas)
    if not written:
        return {}
    kinds = tuple(kind for kind in KINDS if kind in written)
    parameters: list[Any] = [loaded.read_ms + GUARD_MS if guard else NEVER_MS]
    for kind in kinds:
        places, rows = SEALED.get(kind), written[kind]
        parameters += _arrays(rows if places is None else connection.sealing.sealed(places, rows))
    parameters += [len(written[kind]) for kind in kinds if kind not in UNCOUNTED]
    found = await connection.fetch(_statement(kinds), *parameters)
    schemas.update(changes.schemas)
    return {id_: (wake, owner) for id_, wake, owner, _ in found if id_ is not None}


def _arrays(rows: Sequence[Columns]) -> list[Any]:
    """The columns of rows, each as an array, in the order of the rows' keys, the first one, two or three."""
    return list(map(list, zip(*sorted(rows, key=_key), strict=True)))


@lru_cache(maxsize=1024)
def _statement(kinds: tuple[str, ...]) -> str:
    """Join the fragments of these kinds; the first parameter is the instant until which it may be written."""
    parts, checks, after, count = [], [], "true", 1
    for kind in kinds:
        text = renumbered(QUERIES[kind].replace("@after", after), count)
        parts.append(f"{kind} AS{' MATERIALIZED' if kind.startswith('hold') else ''} (\n{text}\n)")
        count += _parameters(kind)
        after = QUERIES["follows"].replace("@kind", kind)
    for kind in kinds:
        if kind not in UNCOUNTED:
            count += 1
            checks.append(renumbered(QUERIES["check"].replace("@kind", kind), count - 1))
    answers = [QUERIES["answer"].replace("@checks", " AND ".join([after, *checks]))]
    if "wake_invocations" in kinds:
        answers.append(QUERIES["answer_wakes"])
    return f"WITH {', '.join(parts)}\n" + "\nUNION ALL\n".join(answers)


@lru_cache(maxsize=len(KINDS))
def _parameters(kind: str) -> int:
    """The number of a fragment's parameters."""
    text, count = QUERIES[kind], 0
    while f"${count + 1}::" in text:
        count += 1
    return count


def _written(changes: Changes, loaded: Loaded, schemas: set[str]) -> Written:
    written: Written = defaultdict(list)
    _awakeables(changes, loaded, written)
    _invocations(changes, loaded, written)
    _effects(changes, written)
    _others(changes, schemas, written)
    if changes.objects or changes.states:
        _objects(changes, written)
    if changes.schedules:
        _schedules(changes, written)
    for target, pause in changes.pauses.items():
        if pause is not None:
            written["delete_pauses"].append((target, pause.since_ms))
        if (now := changes.rows.pauses[target]) is not None:
            written["insert_pauses"].append(astuple(now))
    if changes.purged:
        _purged(changes, loaded, written)
    for letter_id in changes.deleted_dead_letters:
        written["delete_dead_letters"].append((letter_id,))
    for event_id in changes.deleted_effects:
        written["delete_published"].append((event_id,))
    return written


def _invocations(changes: Changes, loaded: Loaded, written: Written) -> None:
    if changes.chunks:
        written["insert_chunks"] = list(changes.chunks)
    for key, before in changes.invocations.items():
        row = changes.rows.invocations[key]
        assert row is not None
        if before is None:
            written["insert_invocations"].append(astuple(row))
        else:
            written["update_invocations"].append(_changed(row, before, loaded.revs[key]))
    if isinstance(changes, BlindChanges) and changes.wakes:
        due_ms = at_once(changes.woken_ms)
        written["wake_invocations"] = [(key, count, due_ms) for key, count in changes.wakes.items()]
        if "update_invocations" in written:
            both = (written["update_invocations"], written["wake_invocations"])
            written["hold_invocations"] = [(columns[0],) for some in both for columns in some]


def _changed(row: Invocation, before: Invocation, rev: int) -> Columns:
    """The columns of `update_invocations`."""
    # Its owner can leave it only if it has seen every wake-up; after its end nobody waits for one.
    leaves = before.status == "running" and row.status not in ("running", "completed")
    return (
        row.id,
        rev,
        before.wake if leaves else None,
        row.wake - before.wake,
        row.updated_ms,
        row.status,
        row.owner,
        row.epoch,
        row.version,
        row.starts,
        row.attempts,
        row.due_ms,
        row.committed_by,
        row.build,
        row.failure_json,
        None if row.result_json is before.result_json else row.result_json,
        row.cancelled_ms,
        row.ended_ms,
        row.acts_json,
        row.commits,
        row.awaited,
        row.ticket,
        row.pausing_ms,
        None if row.versions_json is before.versions_json else row.versions_json,
    )


def _awakeables(changes: Changes, loaded: Loaded, written: Written) -> None:
    for key, before in changes.awakeables.items():
        row = changes.rows.awakeables[key]
        assert row is not None
        if before is None:
            written["insert_awakeables"].append(astuple(row))
            continue
        written["update_awakeables"].append(
            (
                key,
                loaded.revs[key],
                row.state,
                row.settled_ms,
                row.settled_by,
                None if row.outcome_json is before.outcome_json else row.outcome_json,
                row.verdicts_json,
                row.heartbeat_json,
                row.topic,
                row.deadline_ms,
                row.watch_json,
            )
        )


def _effects(changes: Changes, written: Written) -> None:
    for key, before in changes.effects.items():
        row = changes.rows.effects[key]
        if before is None:
            if row is not None:
                written["insert_effects"].append(astuple(row))
        elif row is None:
            written["delete_effects"].append((key, before.state, before.claimed_by))
        else:
            change = (row.state, row.claimed_by, row.reason_utf8, row.acts_json, row.position)
            written["update_effects"].append((key, *change, before.state, before.claimed_by))
    for event_id in changes.published:
        written["delete_published"].append((event_id,))
    touched = [kind for kind in ("update_effects", "delete_effects", "delete_published") if kind in written]
    if touched:
        written["hold_effects"] = [(columns[0],) for kind in touched for columns in written[kind]]


def _others(changes: Changes, schemas: set[str], written: Written) -> None:
    for place, held in changes.positions.items():
        position = changes.rows.positions[place]
        assert position is not None
        if held is None:
            written["insert_positions"].append(astuple(position))
        else:
            written["update_positions"].append((*astuple(position), held.next, held.epoch, held.owner))
    for letter_id, before in changes.dead_letters.items():
        letter = changes.rows.dead_letters[letter_id]
        assert letter is not None
        if before is None:
            written["insert_dead_letters"].append(dead_letter_row(letter))
        else:
            guard = (before.resent, before.count)
            written["update_dead_letters"].append((letter_id, *dead_letter_notes(letter), *guard))
    for scoped in changes.keys:
        known = changes.rows.keys[scoped]
        if known is not None:
            written["insert_keys"].append((*map(text_bytes, scoped), *known))
    for schema_hash, schema in changes.schemas.items():
        if schema_hash not in schemas:
            written["insert_schemas"].append((schema_hash, schema))
    if changes.probes:
        written["probe"] = [()]


def _objects(changes: Changes, written: Written) -> None:
    for object_key, before in changes.objects.items():
        row = changes.rows.objects[object_key]
        if before is None:
            if row is not None:
                written["insert_objects"].append(astuple(row))
            continue
        guard = (before.head, before.tail, before.length, before.paused_ms)
        if row is None:
            written["delete_objects"].append((*object_key, *guard))
        else:
            written["update_objects"].append((*astuple(row), *guard))
    touched = [kind for kind in ("update_objects", "delete_objects") if kind in written]
    if touched:
        written["hold_objects"] = [columns[:2] for kind in touched for columns in written[kind]]
    for (object_key, name), (value, at_ms) in changes.states.items():
        if value is None:
            written["clear_states"].append((*object_key, text_bytes(name)))
        else:
            written["write_states"].append((*object_key, text_bytes(name), value, at_ms))


def _schedules(changes: Changes, written: Written) -> None:
    for name, before in changes.schedules.items():
        row = changes.rows.schedules[name]
        if before is None:
            if row is not None:
                written["insert_schedules"].append(astuple(row))
        elif row is None:
            written["delete_schedules"].append((name, before.since_ms, before.next_ms))
        else:
            written["update_schedules"].append((*astuple(row), *astuple(before)[3:]))
    touched = [kind for kind in ("update_schedules", "delete_schedules") if kind in written]
    if touched:
        written["hold_schedules"] = [(columns[0],) for kind in touched for columns in written[kind]]


def _purged(changes: Changes, loaded: Loaded, written: Written) -> None:
    ids = {ended.id for ended in changes.purged}
    written["delete_invocations"] = [(key, loaded.revs[key]) for key in ids]
    written["delete_journals"] = written["delete_keys"] = [(key,) for key in ids]
    awakeables = {key for ended in changes.purged for key in ended.awakeables}
    if awakeables:
        written["delete_awakeables"] = [(key,) for key in awakeables]
