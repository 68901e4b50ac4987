"""Finds and locks the rows of commands that search; what another instance has locked is skipped."""

from __future__ import annotations

from collections import Counter
from typing import Any

from awakeables.core.awakeables import AwakeableRow
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
from awakeables.core.records import text_from
from awakeables.core.rows import EffectRow
from awakeables.store.floors import Floor, Floors
from awakeables.store.postgres.connection import Connection
from awakeables.store.postgres.loading import Loaded, hold_places
from awakeables.store.postgres.queries import QUERIES


async def find(connection: Connection, command: Command, loaded: Loaded, floors: Floors) -> Any:
    """Find the rows that a command is decided on, and lock them until the transaction ends."""
    match command:
        case Claim():
            return await _due(connection, command, loaded, floors.due)
        case Expire():
            return await _overdue(connection, command, loaded, floors.overdue)
        case ClaimEffects():
            return await _unclaimed(connection, command.owner, command.limit)
        case PurgeDeadLetters():
            return await _old(connection, command)
        case ExpireState():
            return await _written(connection, command)
        case TakeOver():
            found = await connection.fetch(QUERIES["orphaned_invocations"], command.owner, command.limit)
            return [loaded.invocation(tuple(row)) for row in found]
        case _:
            raise TypeError(f"{type(command).__name__} searches nothing")


async def _due(connection: Connection, command: Claim, loaded: Loaded, floor: Floor) -> Due:
    """Due invocations, those due longest first, at most one suspect; and their effects that others hold."""

    async def due(query: str, limit: int, *least: int) -> list[Invocation]:
        not_mine = (list(command.not_builds), list(command.not_handlers))
        wanted = (loaded.now_ms, SUSPECT_STARTS, limit, NO_INSTANT_MS, *not_mine, *least)
        return [loaded.invocation(tuple(row)) for row in await connection.fetch(QUERIES[query], *wanted)]

    suspects = await due("due_suspects", 1) if command.suspect else []
    least_ms = floor.begin(connection, command.not_builds, command.not_handlers) or 0
    regular = await due("due_invocations", command.limit - len(suspects), least_ms)
    if regular and regular[-1].due_ms is not None:
        floor.reached(due_since_ms(regular[-1].due_ms))
    elif command.not_handlers:  # of which any number may be due
        floor.reached(loaded.now_ms)
    found = [*suspects, *regular]
    if not found:
        return Due(invocations=())
    streams = [row.id for row in found]
    effects = await connection.fetch(QUERIES["effects_of"], streams, command.owner)
    return Due(invocations=found, effects=[connection.sealing.effect(row) for row in effects])


async def _overdue(
    connection: Connection, command: Expire, loaded: Loaded, floor: Floor
) -> list[AwakeableRow]:
    """Awakeables whose deadlines have passed, the earliest first."""
    horizon_ms, least_ms = horizon_of(command, loaded.now_ms), floor.begin(connection)
    wanted = (horizon_ms, command.limit, 0 if least_ms is None else least_ms)
    found = await connection.fetch(QUERIES["overdue_awakeables"], *wanted)
    rows = [loaded.awakeable(tuple(row)) for row in found]
    if len(rows) < command.limit:
        floor.reached(horizon_ms)
    return rows


async def _unclaimed(connection: Connection, owner: str, limit: int) -> list[EffectRow]:
    """Unsent effects that nobody living holds: whole streams, those with the oldest effects, in order."""
    seen = await connection.fetch(QUERIES["unclaimed_effects"], owner, limit)
    if not seen:
        return []
    ids, holders = [row["event_id"] for row in seen], [row["claimed_by"] for row in seen]
    found = await connection.fetch(QUERIES["lock_unclaimed"], ids, holders)
    rows = [connection.sealing.effect(row) for row in found]
    # A stream of which another instance has locked a part is left to it: its order would be lost.
    whole = Counter(row["stream"] for row in seen)
    locked = Counter(row.stream for row in rows)
    mine = [row for row in rows if locked[row.stream] == whole[row.stream]]
    return sorted(mine, key=lambda row: (row.position, row.event_id))


async def _written(connection: Connection, command: ExpireState) -> list[KeyState]:
    """Keys with state. Those whose state is old are read again once nobody else can begin to hold them."""
    wanted = (command.service, command.after, command.limit)
    keys = [key for (key,) in await connection.fetch(QUERIES["keys_with_state"], *wanted)]
    states = await _states_of(connection, command.service, keys)
    old = [each.key for each in states if each.written_ms < command.before_ms and not each.has_queue]
    await hold_places(connection, [(command.service, key) for key in sorted(old)])
    now = {each.key: each for each in await _states_of(connection, command.service, old)}
    return [now.get(each.key, each._replace(names=())) if each.key in old else each for each in states]


async def _states_of(connection: Connection, service: str, keys: list[bytes]) -> list[KeyState]:
    found = await connection.fetch(QUERIES["states_of_keys"], service, keys)
    return [KeyState(key, [*map(text_from, names)], *rest) for key, names, *rest in found]


async def _old(connection: Connection, command: PurgeDeadLetters) -> PurgeCandidates:
    before = first_id("dlq", command.before_ms)
    if command.code is None:
        found = await connection.fetch(QUERIES["old_dead_letters"], before, command.limit)
    else:
        found = await connection.fetch(QUERIES["old_dead_letters_of"], before, command.limit, command.code)
    letters = [letter_id for (letter_id,) in found]
    effects: list[str] = []
    for kind in () if command.dead_letters_only else EFFECT_KINDS:
        wanted = (f"{kind}_", first_id(kind, command.before_ms), command.limit)
        effects += [event_id for (event_id,) in await connection.fetch(QUERIES["old_failed"], *wanted)]
    return PurgeCandidates(letters, effects)
