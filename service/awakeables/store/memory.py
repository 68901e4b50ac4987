"""The store in memory: the reference implementation of the ports, for tests and `awakeables.testing`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from itertools import islice
from typing import TypeAlias, TypeVar, cast

from awakeables.core.awakeables import LATE_LETTER, AwakeableRow, AwakeableState
from awakeables.core.brief import brief_awakeable, brief_dead_letter, brief_effect, brief_invocation
from awakeables.core.commands import (
    Claim,
    ClaimEffects,
    Command,
    Ended,
    Expire,
    ExpireState,
    PurgeDeadLetters,
    TakeOver,
)
from awakeables.core.deadletters import DeadLetter
from awakeables.core.decide.claiming import Due, horizon_of
from awakeables.core.decide.decisions import BY_KEY, BY_SEARCH
from awakeables.core.decide.operating import KeyState, PurgeCandidates
from awakeables.core.decide.queueing import object_key_of
from awakeables.core.effects import Effect, EffectState, QueuedEffect
from awakeables.core.ids import EFFECT_KINDS, by_issue, first_id
from awakeables.core.instances import PartitionRead
from awakeables.core.invocations import STATUSES, Invocation, due_since_ms, is_suspect
from awakeables.core.journal import Entry, decode_chunks, waits_created
from awakeables.core.objects import ObjectKey, ObjectRow, StateEntry
from awakeables.core.outcomes import Outcome
from awakeables.core.pauses import PauseRow
from awakeables.core.replies import Position, Reply
from awakeables.core.rows import (
    Changes,
    CompleteTable,
    EffectRow,
    PartitionKey,
    PositionRow,
    Rows,
    TableName,
)
from awakeables.core.schedules import ListedSchedule, ScheduleRow
from awakeables.core.versions import OpenInvocations, target
from awakeables.ports import ANY_INVOCATION, Clock, Expectation, InvocationFilter, Page
from awakeables.store.batches import beginning_of, first_of
from awakeables.store.membership import LocalHints, LocalMembership, LocalWatermark
from awakeables.store.rows import oldest_queued, open_invocations_from

Key: TypeAlias = Callable[[AwakeableRow], str | None]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _SearchedIds(CompleteTable[str, list[str]]):
    """The IDs of pending awakeables that have a key in common, searched for when they are asked for."""

    def __init__(self, name: TableName, awakeables: Mapping[str, AwakeableRow | None], key: Key) -> None:
        super().__init__(name)
        self._awakeables = awakeables
        self._key = key

    def __missing__(self, key: str) -> list[str]:
        rows = (row for row in self._awakeables.values() if row is not None and row.state == "pending")
        return sorted(row.id for row in rows if self._key(row) == key)


class _FirstQueued(CompleteTable[tuple[ObjectKey, int], str]):
    """The queued invocation of a key that comes first after a ticket."""

    def __init__(self, invocations: Mapping[str, Invocation | None]) -> None:
        super().__init__("queue")
        self._invocations = invocations

    def __missing__(self, key: tuple[ObjectKey, int]) -> str | None:
        object_key, after = key
        rows = [row for row in self._invocations.values() if row is not None and row.status == "queued"]
        own = [row for row in rows if object_key_of(row) == object_key and (row.ticket or 0) > after]
        return min(own, key=lambda row: row.ticket or 0).id if own else None


class _StateNames(CompleteTable[ObjectKey, list[str]]):
    """The names of the state of a key."""

    def __init__(self, states: Mapping[tuple[ObjectKey, str], tuple[bytes, int]]) -> None:
        super().__init__("states")
        self._states = states

    def __missing__(self, key: ObjectKey) -> list[str]:
        return sorted(name for object_key, name in self._states if object_key == key)


class MemoryTables:
    """All rows, in dicts: the tables that commands are decided on, with journals and schemas.

    Attributes:
        rows: The same dicts, typed as decisions see them: a value may be None, but only within a commit.
    """

    def __init__(self, retention_ms: int) -> None:
        self.rows = rows = Rows(retention_ms, CompleteTable)
        rows.waiting = _SearchedIds("waiting", rows.awakeables, lambda row: row.source)
        rows.pending = _SearchedIds("pending", rows.awakeables, lambda row: row.invocation_id)
        self.invocations = cast("dict[str, Invocation]", rows.invocations)
        self.awakeables = cast("dict[str, AwakeableRow]", rows.awakeables)
        self.effects = cast("dict[str, EffectRow]", rows.effects)
        self.dead_letters = cast("dict[str, DeadLetter]", rows.dead_letters)
        self.sources = cast("dict[str, str]", rows.sources)
        self.keys = cast("dict[tuple[str, str], tuple[str, str]]", rows.keys)
        self.positions = cast("dict[PartitionKey, PositionRow]", rows.positions)
        self.schedules = cast("dict[str, ScheduleRow]", rows.schedules)
        self.pauses = cast("dict[str, PauseRow]", rows.pauses)
        self.journals: dict[str, dict[int, bytes]] = {}
        self.schemas: dict[str, bytes] = {}
        self.states: dict[tuple[ObjectKey, str], tuple[bytes, int]] = {}
        rows.queue = _FirstQueued(rows.invocations)
        rows.states = _StateNames(self.states)

    @property
    def failed(self) -> dict[str, str]:
        """The reason for each effect that Kafka refused, by event ID."""
        return {key: row.reason or "" for key, row in self.in_state("failed")}

    def in_state(self, state: EffectState) -> list[tuple[str, EffectRow]]:
        # Within a commit None stands for an effect that this commit has deleted.
        rows = self.rows.effects.items()
        return [(key, row) for key, row in rows if row is not None and row.state == state]

    def chunks(self, invocation_id: str) -> list[bytes]:
        return [chunk for _, chunk in sorted(self.journals.get(invocation_id, {}).items())]

    # Searches.

    def find(self, command: Command, now_ms: int, living: Collection[str], changes: Changes) -> object:
        """Find the rows that a command is decided on, while these instances live, with what has changed."""
        match command:
            case Claim():
                suspects = self._due(command, now_ms, 1, suspects=True) if command.suspect else []
                due = self._due(command, now_ms, command.limit - len(suspects), suspects=False)
                return self._with_effects([*suspects, *due], command.owner)
            case Expire():
                return self._overdue(horizon_of(command, now_ms), command.limit)
            case ClaimEffects():
                return self._unclaimed(command.owner, {command.owner, *living}, command.limit)
            case PurgeDeadLetters():
                return self._old(command)
            case ExpireState():
                return self._keys(command, changes)
            case TakeOver():
                held = sorted((row.id, row) for row in self.invocations.values() if row.owner is not None)
                living = {command.owner, *living}
                return [row for _, row in held if row.owner not in living][: command.limit]
            case _:
                raise TypeError(f"{type(command).__name__} searches nothing")

    def _due(self, command: Claim, now_ms: int, limit: int, *, suspects: bool) -> list[Invocation]:
        """The due invocations, those due longest first: only suspects, or only others."""
        due = [
            (due_since_ms(row.due_ms), row.id, row)
            for row in self.invocations.values()
            if row.due_ms is not None
            and row.due_ms <= now_ms
            and is_suspect(row) == suspects
            and row.build not in command.not_builds
            and target(row.service, row.handler, row.versions.handler) not in command.not_handlers
        ]
        return [row for *_, row in sorted(due, key=lambda each: each[:2])[:limit]]

    def _with_effects(self, due: Sequence[Invocation], owner: str) -> Due:
        streams = {row.id for row in due}
        unsent = [row for _, row in sorted(self.in_state("unsent")) if row.stream in streams]
        return Due(invocations=due, effects=[row for row in unsent if row.claimed_by != owner])

    def _overdue(self, horizon_ms: int, limit: int) -> list[AwakeableRow]:
        overdue = [
            (row.deadline_ms, row.id, row)
            for row in self.awakeables.values()
            if row.state == "pending" and row.deadline_ms is not None and row.deadline_ms <= horizon_ms
        ]
        return [row for *_, row in sorted(overdue, key=lambda each: each[:2])[:limit]]

    def _unclaimed(self, owner: str, living: Collection[str], limit: int) -> list[EffectRow]:
        """Unsent effects that nobody living holds: whole streams, those with the oldest effects."""
        unsent = [row for _, row in sorted(self.in_state("unsent"))]
        others = {row.stream for row in unsent if row.claimed_by in living and row.claimed_by != owner}
        free = [row for row in unsent if row.claimed_by not in living and row.stream not in others]
        streams = {row.stream for row in free[:limit]}
        return in_order([row for row in free if row.stream in streams])

    def unsent(self, owner: str, limit: int) -> list[EffectRow]:
        """Unsent effects of this owner, from the streams with the oldest effects, in order of position."""
        mine = [row for _, row in sorted(self.in_state("unsent")) if row.claimed_by == owner]
        streams = {row.stream for row in mine[:limit]}
        return in_order([row for row in mine if row.stream in streams])[:limit]

    def keys_with_state(self, service: str, after: bytes) -> list[bytes]:
        return sorted({key for (name, key), _ in self.states if name == service and key > after})

    def _keys(self, command: ExpireState, changes: Changes) -> list[KeyState]:
        written: dict[bytes, dict[str, int]] = {}
        for ((service, key), name), (value, at_ms) in (self.states | changes.states).items():
            if service == command.service and key > command.after and value is not None:
                written.setdefault(key, {})[name] = at_ms
        return [
            KeyState(key, sorted(own), max(own.values()), self.rows.objects[command.service, key] is not None)
            for key, own in sorted(written.items())[: command.limit]
        ]

    def _old(self, command: PurgeDeadLetters) -> PurgeCandidates:
        end = first_id("dlq", command.before_ms)
        letters = [row for row in self.dead_letters.values() if row.id < end]
        ids = sorted(row.id for row in letters if command.code in (None, row.code))[: command.limit]
        effects: list[str] = []
        for kind in () if command.dead_letters_only else EFFECT_KINDS:
            first, end = f"{kind}_", first_id(kind, command.before_ms)
            effects += sorted(key for key in self.failed if first < key < end)[: command.limit]
        return PurgeCandidates(ids, effects)

    # Writing and undoing.

    def delete(self, changes: Changes) -> dict[str, dict[int, bytes]]:
        """Delete what a command has deleted, before the next one looks for it; the deleted journals."""
        journals = {}
        for ended in changes.purged:
            _delete(self.invocations, ended.id, changes.invocations)
            for key in [key for key, known in self.keys.items() if known[1] == ended.id]:
                _delete(self.keys, key, changes.keys)
            for awakeable_id in ended.awakeables:
                _delete(self.awakeables, awakeable_id, changes.awakeables)
            journals[ended.id] = self.journals.pop(ended.id, {})
        changes.chunks = [chunk for chunk in changes.chunks if chunk[0] not in journals]
        for letter_id in changes.deleted_dead_letters:
            letter = self.dead_letters[letter_id]
            del self.sources[letter.source]
            _delete(self.dead_letters, letter_id, changes.dead_letters)
        for event_id in changes.deleted_effects:
            _delete(self.effects, event_id, changes.effects)
        for done in (changes.purged, changes.deleted_dead_letters, changes.deleted_effects):
            done.clear()
        return journals

    def write(self, changes: Changes) -> None:
        """Apply what is not written through, journals and schemas, and drop the Nones of deleted effects."""
        for invocation_id, version, chunk, _ in changes.chunks:
            self.journals.setdefault(invocation_id, {})[version] = chunk
        for schema_hash, schema in changes.schemas.items():
            self.schemas.setdefault(schema_hash, schema)
        for event_id in (*changes.effects, *changes.published):
            if self.effects.get(event_id) is None:
                self.effects.pop(event_id, None)
        for object_key in changes.objects:
            if self.rows.objects.get(object_key) is None:
                self.rows.objects.pop(object_key, None)
        for name in changes.schedules:
            if self.rows.schedules.get(name) is None:
                self.rows.schedules.pop(name, None)
        for name in changes.pauses:
            if self.rows.pauses.get(name) is None:
                self.rows.pauses.pop(name, None)
        for state, (value, at_ms) in changes.states.items():
            if value is None:
                self.states.pop(state, None)
            else:
                self.states[state] = (value, at_ms)

    def undo(self, changes: Changes) -> None:
        """Restore every changed row."""
        for letter_id, before in changes.dead_letters.items():
            now = self.dead_letters.get(letter_id)
            if now is not None:
                self.sources.pop(now.source, None)
            if before is not None:
                self.sources[before.source] = letter_id
        _put_back(self.invocations, changes.invocations)
        _put_back(self.awakeables, changes.awakeables)
        _put_back(self.effects, changes.effects)
        _put_back(self.effects, dict.fromkeys(changes.published))
        _put_back(self.dead_letters, changes.dead_letters)
        _put_back(self.positions, changes.positions)
        _put_back(self.keys, changes.keys)
        _put_back(self.rows.objects, changes.objects)
        _put_back(self.schedules, changes.schedules)
        _put_back(self.pauses, changes.pauses)


def in_order(rows: list[EffectRow]) -> list[EffectRow]:
    """Sort effects in the order in which they are published."""
    return sorted(rows, key=lambda row: (row.position, row.event_id))


def _delete(table: dict[K, V], key: K, before: dict[K, V | None]) -> None:
    before.setdefault(key, table.pop(key, None))


def _put_back(table: dict[K, V], before: Mapping[K, V | None]) -> None:
    for key, row in before.items():
        if row is None:
            table.pop(key, None)
        else:
            table[key] = row


class MemoryStore:
    """A store in this process's memory; nothing outlives the process."""

    def __init__(self, *, clock: Clock, retention_ms: int, shared: bool = False) -> None:
        """Begin empty.

        Args:
            clock: The time of every commit.
            retention_ms: An awakeable without a row whose ID is older than this was purged.
            shared: Several instances of this process use it at once.
        """
        self._clock = clock
        self.tables = MemoryTables(retention_ms)
        self.membership = LocalMembership(clock, shared=shared)
        self.hints = LocalHints()
        self._watermark = LocalWatermark(clock)

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def commit(self, commands: Sequence[Command]) -> list[Reply]:
        now_ms = self._clock.now_ms()
        changes = Changes(self.tables.rows)
        journals: dict[str, dict[int, bytes]] = {}
        try:
            replies = []
            for command in commands:
                replies.append(self.decide(command, now_ms, changes))
                journals |= self.tables.delete(changes)
            self.keep(changes)
        except BaseException:
            self.tables.undo(changes)
            self.tables.journals |= journals
            raise
        return replies

    def decide(self, command: Command, now_ms: int, changes: Changes) -> Reply:
        """Decide one command over all rows."""
        search = BY_SEARCH.get(type(command))
        if search is not None:
            found = self.tables.find(command, now_ms, self.membership.living, changes)
            return search(command, found, now_ms, changes)
        return BY_KEY[type(command)](command, self.tables.rows, now_ms, changes)

    def keep(self, changes: Changes) -> None:
        """Make durable what the commands have changed; a test makes this fail."""
        self.tables.write(changes)

    async def history(self, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
        tables = self.tables
        return {key: decode_chunks(tables.chunks(key)) for key in invocation_ids if key in tables.journals}

    async def outcomes(self, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
        found = [self.tables.awakeables.get(key) for key in awakeable_ids]
        rows = sorted((row for row in found if row is not None), key=lambda row: row.settled_ms or 0)
        return {row.id: row.outcome for row in rows if row.outcome is not None}

    async def held_by(self, owner: str) -> list[str]:
        return [row.id for row in self.tables.invocations.values() if row.owner == owner]

    async def ends(self, invocation_ids: Sequence[str]) -> dict[str, Outcome | None]:
        rows = (self.tables.invocations.get(key) for key in invocation_ids)
        return {
            row.id: row.result for row in rows if row is not None and row.status in ("completed", "paused")
        }

    async def expectations(self, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
        rows = (self.tables.awakeables.get(key) for key in awakeable_ids)
        return {
            row.id: Expectation(
                invocation_id=row.invocation_id,
                codec=row.codec,
                type_name=row.type_name,
                schema_hash=row.schema_hash,
                schema=self.tables.schemas.get(row.schema_hash or ""),
                keeps_late=row.watch.on_late == LATE_LETTER,
            )
            for row in rows
            if row is not None
        }

    async def effects(self, owner: str, limit: int) -> list[Effect]:
        return [row.effect for row in self.tables.unsent(owner, limit)]

    async def ended(self, before_ms: int, limit: int) -> list[Ended]:
        tables = self.tables
        rows = [row for row in tables.invocations.values() if row.status == "completed"]
        ended = sorted((row.updated_ms, row.id, row.version) for row in rows if row.updated_ms <= before_ms)
        keys = first_of(((key, chunks) for _, key, chunks in ended), limit)
        return [Ended(id=key, awakeables=tuple(waits_created(tables.chunks(key)))) for key in keys]

    async def awakeables_of(self, invocation_ids: Sequence[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for row in self.tables.awakeables.values():
            if row.invocation_id in invocation_ids:
                found.setdefault(row.invocation_id, []).append(row.id)
        return found

    async def read_up_to(
        self, topic: str, partitions: int, mine: Sequence[PartitionRead], *, topic_id: str | None = None
    ) -> int | None:
        return self._watermark.note(topic, partitions, mine, await self.positions(topic), topic_id)

    async def positions(self, topic: str, subscription: str = "") -> list[Position]:
        rows = sorted(self.tables.positions.items())
        return [row.position for place, row in rows if place[:2] == (subscription, topic)]

    async def subscribed(self) -> list[tuple[str, str]]:
        return sorted({(name, topic) for name, topic, _ in self.tables.positions if name})

    async def count_open(self, subscription: str, most: int) -> int:
        rows = self.tables.invocations.values()
        named = (row for row in rows if row.subscription == subscription and row.result_json is None)
        return sum(1 for _ in islice(named, most))

    async def pauses(self) -> list[PauseRow]:
        return [row for _, row in sorted(self.tables.pauses.items())]

    async def schedules(self) -> list[ListedSchedule]:
        listed = []
        for _, row in sorted(self.tables.schedules.items()):
            last = self.tables.invocations.get(row.last_invocation or "")
            listed.append(ListedSchedule(row=row, last_status=None if last is None else last.status))
        return listed

    async def invocation(self, invocation_id: str) -> Invocation | None:
        return self.tables.invocations.get(invocation_id)

    async def invocations(self, page: Page, which: InvocationFilter = ANY_INVOCATION) -> list[Invocation]:
        rows = self.tables.invocations.values()
        found = _newest({row.id: row for row in rows if which.includes(row)}, page)
        return [brief_invocation(row) for row in found]

    async def open_by_versions(self) -> list[OpenInvocations]:
        groups: dict[tuple[str, str, bytes | None], list[int]] = {}
        for row in self.tables.invocations.values():
            if row.result_json is None:
                groups.setdefault((row.service, row.handler, row.versions_json), []).append(row.created_ms)
        return [open_invocations_from((*of, len(created), min(created))) for of, created in groups.items()]

    async def keyed(self, scopes: Sequence[str], key: str) -> list[Invocation]:
        found = {self.tables.keys[scope, key][1] for scope in scopes if (scope, key) in self.tables.keys}
        return [brief_invocation(self.tables.invocations[key]) for key in sorted(found, reverse=True)]

    async def idempotency_key(self, invocation_id: str) -> str | None:
        keys = self.tables.keys.items()
        return next((key for (_, key), known in keys if known[1] == invocation_id), None)

    async def journal(self, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
        chunks, whole = beginning_of(self.tables.chunks(invocation_id), most_bytes)
        return decode_chunks(chunks), whole

    async def queue(self, object_key: ObjectKey) -> ObjectRow | None:
        return self.tables.rows.objects[object_key]

    async def queues(self, service: str, limit: int, after: bytes = b"") -> list[ObjectRow]:
        rows = [
            row for row in self.tables.rows.objects.values() if row is not None and row.service == service
        ]
        return sorted((row for row in rows if row.key_utf8 > after), key=lambda row: row.key_utf8)[:limit]

    async def in_line(self, object_key: ObjectKey, limit: int) -> list[Invocation]:
        rows = [row for row in self.tables.invocations.values() if row.status == "queued"]
        own = sorted((row.ticket or 0, row.id) for row in rows if object_key_of(row) == object_key)
        return [brief_invocation(self.tables.invocations[key]) for _, key in own[:limit]]

    async def waits_of(self, invocation_id: str, limit: int) -> list[AwakeableRow]:
        pending = self.tables.rows.pending[invocation_id] or []
        return [brief_awakeable(self.tables.awakeables[key]) for key in pending[:limit]]

    async def state(self, object_key: ObjectKey, name: str) -> bytes | None:
        found = self.tables.states.get((object_key, name))
        return None if found is None else found[0]

    async def state_names(self, object_key: ObjectKey) -> list[str]:
        return self.tables.rows.states[object_key] or []

    async def states(self, object_key: ObjectKey, limit: int, after: str = "") -> list[StateEntry]:
        names = self.tables.rows.states[object_key] or []
        found = [(name, *self.tables.states[object_key, name]) for name in names]
        entries = [StateEntry(name=name, value=value, updated_ms=at_ms) for name, value, at_ms in found]
        return [entry for entry in entries if entry.name > after][:limit]

    async def keys_with_state(self, service: str, limit: int, after: bytes = b"") -> list[bytes]:
        return self.tables.keys_with_state(service, after)[:limit]

    async def awakeable(self, awakeable_id: str) -> AwakeableRow | None:
        return self.tables.awakeables.get(awakeable_id)

    async def awakeables(self, page: Page, *, state: AwakeableState | None = None) -> list[AwakeableRow]:
        rows = [row for row in self.tables.awakeables.values() if row.source_utf8 is None]
        found = _newest({row.id: row for row in rows if state in (None, row.state)}, page)
        return [brief_awakeable(row) for row in found]

    async def dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        return self.tables.dead_letters.get(dead_letter_id)

    async def dead_letters(self, page: Page) -> list[DeadLetter]:
        return [brief_dead_letter(row) for row in _newest(self.tables.dead_letters, page)]

    async def queued_effect(self, event_id: str) -> QueuedEffect | None:
        row = self.tables.effects.get(event_id)
        return None if row is None else row.queued

    async def queued_effects(self, page: Page, *, state: EffectState) -> list[QueuedEffect]:
        found = _newest(dict(self.tables.in_state(state)), page)
        return [brief_effect(row.queued) for row in found]

    async def counts(self) -> Mapping[str, int]:
        tables = self.tables
        pending = [
            row.created_ms
            for row in tables.awakeables.values()
            if row.state == "pending" and row.source_utf8 is None
        ]
        unsent = [row.created_ms for _, row in tables.in_state("unsent")]
        statuses = Counter(row.status for row in tables.invocations.values() if row.status != "completed")
        first_in_line = {
            (row.service, row.key_utf8): row.updated_ms
            for row in sorted(tables.invocations.values(), key=lambda row: row.ticket or 0, reverse=True)
            if row.status == "queued"
        }
        queued: dict[str, int] = {}
        for (service, _), since_ms in first_in_line.items():
            queued[service] = min(since_ms, queued.get(service, since_ms))
        oldest = {
            "awakeables_oldest_ms": pending,
            "effects_oldest_ms": unsent,
        }
        return {
            "awakeables_pending": len(pending),
            "invocations_open": statuses.total(),
            **{f"invocations_{status}": statuses[status] for status in STATUSES if status != "completed"},
            **{name: min(made) for name, made in oldest.items() if made},
            **oldest_queued(queued.items()),
            "effects_unsent": len(unsent),
            "effects_failed": len(tables.failed),
            "dead_letters": len(tables.dead_letters),
        }


def _newest(rows: Mapping[str, V], page: Page) -> list[V]:
    before = None if page.before is None else by_issue(page.before)
    keys = sorted((k for k in rows if before is None or by_issue(k) < before), key=by_issue, reverse=True)
    return [rows[key] for key in keys[: page.limit]]
