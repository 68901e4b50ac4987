"""Reads rows for decisions: by key with one statement per table, and the searches of commands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from awakeables.core.commands import (
    Claim,
    ClaimEffects,
    Command,
    Expire,
    ExpireState,
    PurgeDeadLetters,
    TakeOver,
)
from awakeables.core.decide.claiming import Due, horizon_of
from awakeables.core.decide.operating import KeyState, PurgeCandidates
from awakeables.core.ids import EFFECT_KINDS, first_id
from awakeables.core.invocations import NO_INSTANT_MS, SUSPECT_STARTS, Invocation, due_since_ms
from awakeables.core.objects import ObjectKey, ObjectRow
from awakeables.core.pauses import PauseRow
from awakeables.core.records import text_bytes, text_from
from awakeables.core.rows import EffectRow, PartitionKey, PositionRow, Rows, TableName
from awakeables.core.schedules import ScheduleRow
from awakeables.store.rows import Columns
from awakeables.store.sealing import Sealing
from awakeables.store.sqlite.connection import FileConnection
from awakeables.store.sqlite.queries import QUERIES

_json = msgspec.json.Encoder().encode


def id_list(ids: Iterable[str]) -> str:
    """A list of IDs as one parameter, for `json_each`."""
    return _json(list(ids)).decode()


Read: TypeAlias = Callable[[FileConnection, Collection[Any]], Iterable[tuple[Hashable, Any]]]


def load(connection: FileConnection, table: TableName, keys: Collection[Any], rows: Rows) -> None:
    """Load the rows of one table with these keys; None is stored for a row that does not exist."""
    loaded: dict[Hashable, Any] = getattr(rows, table)
    loaded.update(dict.fromkeys(keys))
    loaded.update(_READ[table](connection, keys))


def _reads(query: str, made_of: Callable[[Sealing, Columns], Any]) -> Read:
    """Read rows by their IDs, the first column."""

    def read(connection: FileConnection, ids: Collection[str]) -> Iterable[tuple[Hashable, Any]]:
        found = connection.execute(QUERIES[query], (id_list(sorted(ids)),))
        return [(columns[0], made_of(connection.sealing, columns)) for columns in found]

    return read


def _lists(query: str) -> Read:
    """Read the IDs of rows by what they have in common, the first column."""

    def read(connection: FileConnection, keys: Collection[str]) -> Iterable[tuple[Hashable, Any]]:
        found: dict[str, list[str]] = {key: [] for key in keys}
        for key, id_ in connection.execute(QUERIES[query], (id_list(sorted(keys)),)):
            found[key].append(id_)
        return [(key, sorted(ids)) for key, ids in found.items()]

    return read


def _keys(connection: FileConnection, keys: Collection[tuple[str, str]]) -> Iterable[tuple[Hashable, Any]]:
    for scope, key in keys:
        wanted = (text_bytes(scope), text_bytes(key))
        found = connection.execute(QUERIES["idempotent"], wanted).fetchone()
        yield (scope, key), found and (connection.sealing.fingerprint(*wanted, found[0]), found[1])


def _positions(connection: FileConnection, keys: Collection[PartitionKey]) -> Iterable[tuple[Hashable, Any]]:
    for key in keys:
        columns = connection.execute(QUERIES["position"], key).fetchone()
        yield key, columns and PositionRow(*columns)


def _objects(connection: FileConnection, keys: Collection[ObjectKey]) -> Iterable[tuple[Hashable, Any]]:
    for key in keys:
        columns = connection.execute(QUERIES["queue"], key).fetchone()
        yield key, columns and ObjectRow(*columns)


def _first_queued(
    connection: FileConnection, keys: Collection[tuple[ObjectKey, int]]
) -> Iterable[tuple[Hashable, Any]]:
    for object_key, after in keys:
        found = connection.execute(QUERIES["next_queued"], (*object_key, after)).fetchone()
        yield (object_key, after), found and found[0]


def _state_names(connection: FileConnection, keys: Collection[ObjectKey]) -> Iterable[tuple[Hashable, Any]]:
    for key in keys:
        yield key, [text_from(name) for (name,) in connection.execute(QUERIES["state_names"], key)]


def _schedules(connection: FileConnection, names: Collection[str]) -> Iterable[tuple[Hashable, Any]]:
    for name in names:
        columns = connection.execute(QUERIES["schedule"], (name,)).fetchone()
        yield name, columns and ScheduleRow(*columns)


def _pauses(connection: FileConnection, targets: Collection[str]) -> Iterable[tuple[Hashable, Any]]:
    for target in targets:
        columns = connection.execute(QUERIES["pause"], (target,)).fetchone()
        yield target, columns and PauseRow(*columns)


_READ: dict[TableName, Read] = {
    "invocations": _reads("invocations", Sealing.invocation),
    "awakeables": _reads("awakeables", Sealing.awakeable),
    "effects": _reads("effects", Sealing.effect),
    "dead_letters": _reads("dead_letters", Sealing.dead_letter),
    "sources": _reads("dead_letters_of", lambda _, columns: columns[1]),
    "keys": _keys,
    "positions": _positions,
    "waiting": _lists("waiting_for"),
    "pending": _lists("pending_of"),
    "objects": _objects,
    "queue": _first_queued,
    "states": _state_names,
    "schedules": _schedules,
    "pauses": _pauses,
}


def find(connection: FileConnection, command: Command, now_ms: int, living: Collection[str]) -> Any:
    """Find the rows that a command is decided on, while these instances live."""
    match command:
        case Claim():
            suspects = _due(connection, command, now_ms, 1, suspects=True) if command.suspect else []
            limit = command.limit - len(suspects)
            due = [*suspects, *_due(connection, command, now_ms, limit, suspects=False)]
            return Due(invocations=due, effects=_effects_of(connection, due, command.owner))
        case Expire():
            wanted = (horizon_of(command, now_ms), command.limit)
            return [
                connection.sealing.awakeable(row)
                for row in connection.execute(QUERIES["overdue_awakeables"], wanted)
            ]
        case ClaimEffects():
            return _unclaimed(connection, command.owner, living, command.limit)
        case PurgeDeadLetters():
            return _old(connection, command)
        case ExpireState():
            keys = connection.execute(
                QUERIES["keys_with_state"],
                (command.service, command.after, command.service, command.limit),
            )
            return [_key_state(connection, (command.service, key)) for (key,) in keys.fetchall()]
        case TakeOver():
            alive = id_list({command.owner, *living})
            orphans = connection.execute(QUERIES["orphaned_invocations"], (alive, command.limit))
            return [connection.sealing.invocation(row) for row in orphans]
        case _:
            raise TypeError(f"{type(command).__name__} searches nothing")


def _due(
    connection: FileConnection, command: Claim, now_ms: int, limit: int, *, suspects: bool
) -> list[Invocation]:
    left = (id_list(command.not_builds), id_list(command.not_handlers))
    merged = (NO_INSTANT_MS, limit)
    if suspects:
        found = connection.execute(QUERIES["due_suspects"], (now_ms, SUSPECT_STARTS, *left, *merged))
        return [connection.sealing.invocation(row) for row in found]
    least_ms = 0
    if command.not_handlers:
        least_ms = max(0, connection.due.begin(command.not_builds, command.not_handlers) or 0)
    kind = (SUSPECT_STARTS, *left, limit)
    wanted = (least_ms - NO_INSTANT_MS, *kind, least_ms, now_ms, *kind, *merged)
    rows = [
        connection.sealing.invocation(row) for row in connection.execute(QUERIES["due_invocations"], wanted)
    ]
    if command.not_handlers:
        is_all = len(rows) < limit or not rows or rows[-1].due_ms is None
        connection.due.reached(now_ms if is_all else due_since_ms(rows[-1].due_ms or 0))
    return rows


def _effects_of(connection: FileConnection, due: Sequence[Invocation], owner: str) -> list[EffectRow]:
    """The unsent effects of these invocations that others hold."""
    if not due:
        return []
    streams = id_list(sorted(row.id for row in due))
    found = connection.execute(QUERIES["unclaimed_of_streams"], (streams, owner))
    return [connection.sealing.effect(row) for row in found]


def _unclaimed(
    connection: FileConnection, owner: str, living: Collection[str], limit: int
) -> list[EffectRow]:
    """Unsent effects that nobody living holds: whole streams, those with the oldest effects, in order."""
    holders = connection.execute(QUERIES["other_holders"], (owner,)).fetchall()
    others = id_list(set(living) - {owner})
    oldest = sorted(
        row
        for (name,) in holders
        if name not in living
        for row in connection.execute(QUERIES["oldest_of_holder"], (name, others, limit))
    )
    if not oldest:
        return []
    streams = id_list(sorted({stream for _, stream in oldest[:limit]}))
    found = connection.execute(QUERIES["unclaimed_of_streams"], (streams, owner))
    return sorted(
        (connection.sealing.effect(row) for row in found), key=lambda row: (row.position, row.event_id)
    )


def unsent(connection: FileConnection, owner: str, limit: int) -> list[EffectRow]:
    """Unsent effects of an owner, in order of position."""
    found = connection.execute(QUERIES["unsent_of"], (owner, limit, owner, limit))
    return sorted(
        (connection.sealing.effect(row) for row in found), key=lambda row: (row.position, row.event_id)
    )


def _key_state(connection: FileConnection, object_key: ObjectKey) -> KeyState:
    written = connection.execute(QUERIES["written_since"], object_key).fetchall()
    queue = connection.execute(QUERIES["queue"], object_key).fetchone()
    names = [text_from(name) for name, _ in written]
    return KeyState(object_key[1], names, max(at_ms for _, at_ms in written), queue is not None)


def _old(connection: FileConnection, command: PurgeDeadLetters) -> PurgeCandidates:
    before = first_id("dlq", command.before_ms)
    if command.code is None:
        found = connection.execute(QUERIES["old_dead_letters"], (before, command.limit))
    else:
        found = connection.execute(QUERIES["old_dead_letters_of"], (command.code, before, command.limit))
    letters = [letter_id for (letter_id,) in found]
    effects: list[str] = []
    for kind in () if command.dead_letters_only else EFFECT_KINDS:
        wanted = (f"{kind}_", first_id(kind, command.before_ms), command.limit)
        effects += [event_id for (event_id,) in connection.execute(QUERIES["old_failed"], wanted)]
    return PurgeCandidates(letters, effects)
