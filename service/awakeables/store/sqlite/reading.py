"""The queries of readers: one statement each, so that each sees one consistent state.

Rows of lists are made brief one by one, so that only one large field is in memory at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter

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
from awakeables.store.rows import expectation_from, oldest_queued, open_invocations_from
from awakeables.store.sealing import readable
from awakeables.store.sqlite.connection import FileConnection
from awakeables.store.sqlite.loading import id_list, unsent
from awakeables.store.sqlite.queries import QUERIES

_AFTER_ALL = "\U0010ffff"
"""Sorts after every ID, for the page that begins with the newest row."""


def history(connection: FileConnection, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
    journals = _chunks(connection, invocation_ids)
    return {invocation_id: decode_chunks(map(readable, chunks)) for invocation_id, chunks in journals.items()}


def journal(connection: FileConnection, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
    found = connection.execute(QUERIES["chunks"], (invocation_id,))
    opened = (readable(connection.sealing.chunk((invocation_id, *columns)).content) for columns in found)
    chunks, whole = beginning_of(opened, most_bytes)
    return decode_chunks(chunks), whole


def _chunks(connection: FileConnection, invocation_ids: Sequence[str]) -> dict[str, list[bytes]]:
    chunks: dict[str, list[bytes]] = defaultdict(list)
    for columns in connection.execute(QUERIES["history"], (id_list(set(invocation_ids)),)):
        chunk = connection.sealing.chunk(columns)
        chunks[chunk.invocation_id].append(chunk.content)
    return chunks


def outcomes(connection: FileConnection, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
    found = connection.execute(QUERIES["outcomes"], (id_list(awakeable_ids),)).fetchall()
    opened = connection.sealing.value
    return {
        id_: decode_outcome(opened("awakeables", "outcome", [id_], outcome))
        for _, id_, outcome in sorted(found, key=itemgetter(0))
    }


def held_by(connection: FileConnection, owner: str) -> list[str]:
    return [invocation_id for (invocation_id,) in connection.execute(QUERIES["held_by"], (owner,))]


def ends(connection: FileConnection, invocation_ids: Sequence[str]) -> dict[str, Outcome | None]:
    found = connection.execute(QUERIES["invocations"], (id_list(invocation_ids),))
    rows = [connection.sealing.invocation(columns) for columns in found]
    return {row.id: row.result for row in rows if row.status in ("completed", "paused")}


def expectations(connection: FileConnection, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
    found = connection.execute(QUERIES["expectations"], (id_list(awakeable_ids),))
    return {awakeable_id: expectation_from(columns) for awakeable_id, *columns in found}


def effects(connection: FileConnection, owner: str, limit: int) -> list[Effect]:
    return [row.effect for row in unsent(connection, owner, limit)]


def ended(connection: FileConnection, before_ms: int, limit: int) -> list[Ended]:
    # Two statements are safe here: an ended invocation does not change until it is purged.
    keys = first_of(connection.execute(QUERIES["ended"], (before_ms, limit)), limit)
    journals = _chunks(connection, keys)
    unread = [key for key in keys if any(isinstance(chunk, Unopened) for chunk in journals[key])]
    found = awakeables_of(connection, unread) if unread else {}
    return [
        Ended(id=key, awakeables=tuple(found.get(key, ()) if key in unread else waits_created(journals[key])))
        for key in keys
    ]


def awakeables_of(connection: FileConnection, invocation_ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for invocation_id, id_ in connection.execute(QUERIES["awakeables_of"], (id_list(invocation_ids),)):
        found[invocation_id].append(id_)
    return found


def pauses(connection: FileConnection) -> list[PauseRow]:
    return [PauseRow(*row) for row in connection.execute(QUERIES["pauses"])]


def schedules(connection: FileConnection) -> list[ListedSchedule]:
    found = connection.execute(QUERIES["schedules"])
    return [ListedSchedule(row=ScheduleRow(*row), last_status=status) for *row, status in found]


def positions(connection: FileConnection, topic: str, subscription: str) -> list[Position]:
    found = connection.execute(QUERIES["positions"], (subscription, topic))
    return [PositionRow(*row).position for row in found]


def subscribed(connection: FileConnection) -> list[tuple[str, str]]:
    return [(name, topic) for name, topic in connection.execute(QUERIES["subscribed"])]


def count_open(connection: FileConnection, subscription: str, most: int) -> int:
    (count,) = connection.execute(QUERIES["count_open_of"], (subscription, most)).fetchone()
    return int(count)


def open_by_versions(connection: FileConnection) -> list[OpenInvocations]:
    found = connection.execute(QUERIES["open_by_versions"])
    return [open_invocations_from(columns) for columns in found]


def invocation(connection: FileConnection, invocation_id: str) -> Invocation | None:
    row = connection.execute(QUERIES["invocation"], (invocation_id,)).fetchone()
    return None if row is None else connection.sealing.invocation(row)


def invocations(connection: FileConnection, page: Page, which: InvocationFilter) -> list[Invocation]:
    before = _AFTER_ALL if page.before is None else page.before
    status = None if which.status == "open" else which.status
    wanted = (before, which.service, which.handler, which.subscription, status, page.limit)
    found = connection.execute(QUERIES[listing_query(which)], wanted)
    return [brief_invocation(connection.sealing.invocation(row)) for row in found]


def keyed(connection: FileConnection, scopes: Sequence[str], key: str) -> list[Invocation]:
    found = connection.execute(QUERIES["keyed"], (id_list(scopes), text_bytes(key)))
    briefly = [brief_invocation(connection.sealing.invocation(row)) for row in found]
    return sorted(briefly, key=lambda row: row.id, reverse=True)


def idempotency_key(connection: FileConnection, invocation_id: str) -> str | None:
    row = connection.execute(QUERIES["key_of"], (invocation_id,)).fetchone()
    return None if row is None else text_from(row[0])


def queue(connection: FileConnection, object_key: ObjectKey) -> ObjectRow | None:
    row = connection.execute(QUERIES["queue"], object_key).fetchone()
    return None if row is None else ObjectRow(*row)


def queues(connection: FileConnection, service: str, limit: int, after: bytes) -> list[ObjectRow]:
    return [ObjectRow(*row) for row in connection.execute(QUERIES["queues"], (service, after, limit))]


def in_line(connection: FileConnection, object_key: ObjectKey, limit: int) -> list[Invocation]:
    found = connection.execute(QUERIES["in_line"], (*object_key, limit))
    return [brief_invocation(connection.sealing.invocation(row)) for row in found]


def waits_of(connection: FileConnection, invocation_id: str, limit: int) -> list[AwakeableRow]:
    found = connection.execute(QUERIES["waits_of"], (invocation_id, limit))
    return [brief_awakeable(connection.sealing.awakeable(row)) for row in found]


def state(connection: FileConnection, object_key: ObjectKey, name: str) -> bytes | None:
    key = (*object_key, text_bytes(name))
    row = connection.execute(QUERIES["state"], key).fetchone()
    return None if row is None else connection.sealing.value("state", "value", key, row[0])


def state_names(connection: FileConnection, object_key: ObjectKey) -> list[str]:
    return [text_from(name) for (name,) in connection.execute(QUERIES["state_names"], object_key)]


def states(connection: FileConnection, object_key: ObjectKey, limit: int, after: str) -> list[StateEntry]:
    found = connection.execute(QUERIES["states"], (*object_key, text_bytes(after), limit))
    opened = connection.sealing.state_entry
    return [opened(object_key, *columns) for columns in found]


def keys_with_state(connection: FileConnection, service: str, limit: int, after: bytes) -> list[bytes]:
    found = connection.execute(QUERIES["keys_with_state"], (service, after, service, limit))
    return [key for (key,) in found]


def awakeable(connection: FileConnection, awakeable_id: str) -> AwakeableRow | None:
    row = connection.execute(QUERIES["awakeable"], (awakeable_id,)).fetchone()
    return None if row is None else connection.sealing.awakeable(row)


def awakeables(connection: FileConnection, page: Page, state: AwakeableState | None) -> list[AwakeableRow]:
    before = _AFTER_ALL if page.before is None else page.before
    if state is None:
        found = connection.execute(QUERIES["list_awakeables"], (before, page.limit))
    elif state == "pending":
        found = connection.execute(QUERIES["list_pending"], (before, page.limit))
    else:
        found = connection.execute(QUERIES["list_settled"], (before, state, page.limit))
    return [brief_awakeable(connection.sealing.awakeable(row)) for row in found]


def dead_letter(connection: FileConnection, dead_letter_id: str) -> DeadLetter | None:
    row = connection.execute(QUERIES["dead_letter"], (dead_letter_id,)).fetchone()
    return None if row is None else connection.sealing.dead_letter(row)


def dead_letters(connection: FileConnection, page: Page) -> list[DeadLetter]:
    before = _AFTER_ALL if page.before is None else page.before
    found = connection.execute(QUERIES["list_dead_letters"], (before, page.limit))
    return [brief_dead_letter(connection.sealing.dead_letter(row)) for row in found]


def queued_effect(connection: FileConnection, event_id: str) -> QueuedEffect | None:
    row = connection.execute(QUERIES["effect"], (event_id,)).fetchone()
    return None if row is None else connection.sealing.effect(row).queued


def queued_effects(connection: FileConnection, page: Page, state: EffectState) -> list[QueuedEffect]:
    query = QUERIES["newest_unsent" if state == "unsent" else "newest_failed"]
    before = _AFTER_ALL if page.before is None else by_issue(page.before)
    effects: list[QueuedEffect] = []
    for kind in EFFECT_KINDS:
        # A statement per kind is safe: an effect's ID never changes its kind between them.
        found = connection.execute(query, (f"{kind}_", f"{kind}_{before}", page.limit))
        effects += [brief_effect(connection.sealing.effect(row).queued) for row in found]
    return sorted(effects, key=lambda effect: by_issue(effect.id), reverse=True)[: page.limit]


def oldest(connection: FileConnection) -> dict[str, int]:
    """When the oldest row of each kind was created, by the first entries of indexes; left out if none."""
    pending = connection.execute(QUERIES["oldest_pending"]).fetchone() or (None,)
    (unsent,) = connection.execute(QUERIES["oldest_unsent"]).fetchone()
    queued = connection.execute(QUERIES["oldest_queued"]).fetchall()
    made = {"awakeables_oldest_ms": pending[0], "effects_oldest_ms": unsent}
    return {name: made_ms for name, made_ms in made.items() if made_ms is not None} | oldest_queued(queued)
