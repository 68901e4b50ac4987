"""The queries of readers: one statement each, so that each sees one consistent state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter

import msgspec

from awakeables.core.awakeables import AwakeableRow, AwakeableState
from awakeables.core.brief import brief_awakeable, brief_dead_letter, brief_effect, brief_invocation
from awakeables.core.commands import Ended
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, EffectState, QueuedEffect
from awakeables.core.ids import EFFECT_KINDS, by_issue
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Entry, decode_chunks, waits_created
from awakeables.core.objects import ObjectKey, ObjectRow, StateEntry
from awakeables.core.outcomes import Outcome, decode_outcome
from awakeables.core.pauses import PauseRow
from awakeables.core.records import text_bytes, text_from
from awakeables.core.replies import Position
from awakeables.core.rows import PositionRow
from awakeables.core.schedules import ListedSchedule, ScheduleRow
from awakeables.core.sealed import Unopened
from awakeables.core.versions import OpenInvocations
from awakeables.ports import Expectation, InvocationFilter, Page
from awakeables.store.batches import beginning_of, first_of
from awakeables.store.listing import listing_query
from awakeables.store.postgres.connection import Connection
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.postgres.texts import storable
from awakeables.store.rows import expectation_from, oldest_queued, open_invocations_from
from awakeables.store.sealing import readable

_AFTER_ALL = "\U0010ffff"
"""Sorts after every ID, for the page that begins with the newest row."""


def _before(page: Page) -> str | None:
    return _AFTER_ALL if page.before is None else storable(page.before)


async def history(connection: Connection, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
    journals = await _chunks(connection, invocation_ids)
    return {invocation_id: decode_chunks(map(readable, chunks)) for invocation_id, chunks in journals.items()}


async def journal(connection: Connection, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
    # Several statements are safe here: a journal only grows, and is deleted whole.
    found: list[bytes] = []
    while True:
        some = await connection.fetch(QUERIES["chunks"], storable(invocation_id), len(found))
        found += [connection.sealing.chunk((invocation_id, *columns)).content for columns in some]
        if not some or sum(map(len, found)) > most_bytes:
            chunks, whole = beginning_of(map(readable, found), most_bytes)
            return decode_chunks(chunks), whole


async def _chunks(connection: Connection, invocation_ids: Sequence[str]) -> dict[str, list[bytes]]:
    chunks: dict[str, list[bytes]] = defaultdict(list)
    for columns in await connection.fetch(QUERIES["history"], [*map(storable, set(invocation_ids))]):
        chunk = connection.sealing.chunk(columns)
        chunks[chunk.invocation_id].append(chunk.content)
    return chunks


async def outcomes(connection: Connection, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
    found = await connection.fetch(QUERIES["outcomes"], [*map(storable, awakeable_ids)])
    opened = connection.sealing.value
    return {
        id_: decode_outcome(opened("awakeables", "outcome", [id_], outcome))
        for _, id_, outcome in sorted(found, key=itemgetter(0))
    }


async def held_by(connection: Connection, owner: str) -> list[str]:
    return [invocation_id for (invocation_id,) in await connection.fetch(QUERIES["held_by"], owner)]


async def ends(connection: Connection, invocation_ids: Sequence[str]) -> dict[str, Outcome | None]:
    found = await connection.fetch(QUERIES["ends"], [*map(storable, invocation_ids)])
    return {id_: None if result is None else connection.sealing.result(id_, result) for id_, result in found}


async def expectations(connection: Connection, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
    found = await connection.fetch(QUERIES["expectations"], [*map(storable, awakeable_ids)])
    return {awakeable_id: expectation_from(columns) for awakeable_id, *columns in found}


async def effects(connection: Connection, owner: str, limit: int) -> list[Effect]:
    return [
        connection.sealing.effect(row).effect
        for row in await connection.fetch(QUERIES["unsent_of"], owner, limit)
    ]


async def ended(connection: Connection, before_ms: int, limit: int) -> list[Ended]:
    # Two statements are safe here: an ended invocation does not change until it is purged.
    found = await connection.fetch(QUERIES["ended"], before_ms, limit)
    keys = first_of(((key, version) for key, version in found), limit)
    journals = await _chunks(connection, keys)
    unread = [key for key in keys if any(isinstance(chunk, Unopened) for chunk in journals[key])]
    waits = await awakeables_of(connection, unread) if unread else {}
    return [
        Ended(id=key, awakeables=tuple(waits.get(key, ()) if key in unread else waits_created(journals[key])))
        for key in keys
    ]


async def awakeables_of(connection: Connection, invocation_ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    rows = await connection.fetch(QUERIES["awakeables_of"], [*map(storable, invocation_ids)])
    for invocation_id, id_ in rows:
        found[invocation_id].append(id_)
    return found


async def pauses(connection: Connection) -> list[PauseRow]:
    return [PauseRow(*row) for row in await connection.fetch(QUERIES["pauses"])]


async def schedules(connection: Connection) -> list[ListedSchedule]:
    found = await connection.fetch(QUERIES["schedules"])
    return [ListedSchedule(row=ScheduleRow(*row), last_status=status) for *row, status in found]


async def positions(connection: Connection, topic: str, subscription: str) -> list[Position]:
    found = await connection.fetch(QUERIES["positions"], subscription, topic)
    return [PositionRow(*row).position for row in found]


async def subscribed(connection: Connection) -> list[tuple[str, str]]:
    return [(name, topic) for name, topic in await connection.fetch(QUERIES["subscribed"])]


async def count_open(connection: Connection, subscription: str, most: int) -> int:
    count: int = await connection.fetchval(QUERIES["count_open_of"], subscription, most)
    return count


async def open_by_versions(connection: Connection) -> list[OpenInvocations]:
    found = await connection.fetch(QUERIES["open_by_versions"])
    return [open_invocations_from(columns) for columns in found]


async def invocation(connection: Connection, invocation_id: str) -> Invocation | None:
    row = await connection.fetchrow(QUERIES["invocation"], storable(invocation_id))
    return None if row is None else connection.sealing.invocation(row)


async def invocations(connection: Connection, page: Page, which: InvocationFilter) -> list[Invocation]:
    names = (which.service, which.handler, which.subscription)
    if any(name is not None and storable(name) is None for name in names):
        return []
    status = None if which.status == "open" else which.status
    found = await connection.fetch(QUERIES[listing_query(which)], _before(page), *names, status, page.limit)
    return [brief_invocation(connection.sealing.invocation(row)) for row in found]


async def keyed(connection: Connection, scopes: Sequence[str], key: str) -> list[Invocation]:
    wanted = ([text_bytes(scope) for scope in scopes], text_bytes(key))
    found = await connection.fetch(QUERIES["keyed"], *wanted)
    briefly = [brief_invocation(connection.sealing.invocation(row)) for row in found]
    return sorted(briefly, key=lambda row: row.id, reverse=True)


async def idempotency_key(connection: Connection, invocation_id: str) -> str | None:
    key = await connection.fetchval(QUERIES["key_of"], storable(invocation_id))
    return None if key is None else text_from(key)


async def queue(connection: Connection, object_key: ObjectKey) -> ObjectRow | None:
    row = await connection.fetchrow(QUERIES["queue"], *object_key)
    return None if row is None else ObjectRow(*row)


async def queues(connection: Connection, service: str, limit: int, after: bytes) -> list[ObjectRow]:
    return [ObjectRow(*row) for row in await connection.fetch(QUERIES["queues"], service, after, limit)]


async def in_line(connection: Connection, object_key: ObjectKey, limit: int) -> list[Invocation]:
    found = await connection.fetch(QUERIES["in_line"], *object_key, limit)
    return [brief_invocation(connection.sealing.invocation(row)) for row in found]


async def waits_of(connection: Connection, invocation_id: str, limit: int) -> list[AwakeableRow]:
    found = await connection.fetch(QUERIES["waits_of"], storable(invocation_id), limit)
    return [brief_awakeable(connection.sealing.awakeable(row)) for row in found]


async def state(connection: Connection, object_key: ObjectKey, name: str) -> bytes | None:
    key = (*object_key, text_bytes(name))
    value: bytes | None = await connection.fetchval(QUERIES["state"], *key)
    return None if value is None else connection.sealing.value("state", "value", key, value)


async def state_names(connection: Connection, object_key: ObjectKey) -> list[str]:
    return [text_from(name) for (name,) in await connection.fetch(QUERIES["state_names"], *object_key)]


async def states(connection: Connection, object_key: ObjectKey, limit: int, after: str) -> list[StateEntry]:
    found = await connection.fetch(QUERIES["states"], *object_key, text_bytes(after), limit)
    opened = connection.sealing.state_entry
    return [opened(object_key, *columns) for columns in found]


async def keys_with_state(connection: Connection, service: str, limit: int, after: bytes) -> list[bytes]:
    return [key for (key,) in await connection.fetch(QUERIES["keys_with_state"], service, after, limit)]


async def awakeable(connection: Connection, awakeable_id: str) -> AwakeableRow | None:
    row = await connection.fetchrow(QUERIES["awakeable"], storable(awakeable_id))
    return None if row is None else connection.sealing.awakeable(row)


async def awakeables(connection: Connection, page: Page, state: AwakeableState | None) -> list[AwakeableRow]:
    wanted = (_before(page), page.limit)
    if state is None:
        found = await connection.fetch(QUERIES["list_awakeables"], *wanted)
    elif state == "pending":
        found = await connection.fetch(QUERIES["list_pending"], *wanted)
    else:
        found = await connection.fetch(QUERIES["list_settled"], *wanted, state)
    return [brief_awakeable(connection.sealing.awakeable(row)) for row in found]


async def dead_letter(connection: Connection, dead_letter_id: str) -> DeadLetter | None:
    row = await connection.fetchrow(QUERIES["dead_letter"], storable(dead_letter_id))
    return None if row is None else connection.sealing.dead_letter(row)


async def dead_letters(connection: Connection, page: Page) -> list[DeadLetter]:
    found = await connection.fetch(QUERIES["list_dead_letters"], _before(page), page.limit)
    return [brief_dead_letter(connection.sealing.dead_letter(row)) for row in found]


async def queued_effect(connection: Connection, event_id: str) -> QueuedEffect | None:
    row = await connection.fetchrow(QUERIES["effect"], storable(event_id))
    return None if row is None else connection.sealing.effect(row).queued


async def queued_effects(connection: Connection, page: Page, state: EffectState) -> list[QueuedEffect]:
    query = QUERIES["newest_unsent" if state == "unsent" else "newest_failed"]
    before = _AFTER_ALL if page.before is None else by_issue(page.before)
    effects: list[QueuedEffect] = []
    for kind in EFFECT_KINDS:
        # A statement per kind is safe: an effect's ID never changes its kind between them.
        found = await connection.fetch(query, f"{kind}_", storable(f"{kind}_{before}"), page.limit)
        effects += [brief_effect(connection.sealing.effect(row).queued) for row in found]
    return sorted(effects, key=lambda effect: by_issue(effect.id), reverse=True)[: page.limit]


async def oldest(connection: Connection) -> dict[str, int]:
    """When the oldest row of each kind was created, by the first entries of indexes; left out if none."""
    row = dict(await connection.fetchrow(QUERIES["oldest"]) or {})
    queued = msgspec.json.decode(row.pop("queued", None) or "{}", type=dict[str, int])
    return {name: made_ms for name, made_ms in row.items() if made_ms is not None} | oldest_queued(
        queued.items()
    )
