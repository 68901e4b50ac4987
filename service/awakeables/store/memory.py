"""The store in memory: the reference implementation of the ports, for tests and `awakeables.testing`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TypeVar, cast

from awakeables.core.awakeables import AwakeableRow, State
from awakeables.core.brief import brief_awakeable, brief_dead_letter, brief_effect, brief_invocation
from awakeables.core.commands import (
    Claim,
    ClaimEffects,
    Command,
    Ended,
    Expire,
    Kill,
    PurgeDeadLetters,
    TakeOver,
)
from awakeables.core.deadletters import DeadLetter
from awakeables.core.decide.claiming import Due, horizon_of
from awakeables.core.decide.decisions import BY_KEY, BY_SEARCH
from awakeables.core.decide.operating import PurgeCandidates
from awakeables.core.effects import Effect, EffectState, QueuedEffect
from awakeables.core.ids import EFFECT_KINDS, by_issue, first_id
from awakeables.core.instances import PartitionRead
from awakeables.core.invocations import STATUSES, Invocation, Status, due_since_ms, is_suspect
from awakeables.core.journal import Entry, awakeables_created, decode_chunks
from awakeables.core.outcomes import Outcome
from awakeables.core.replies import Position, Reply
from awakeables.core.rows import Changes, CompleteTable, EffectRow, PositionRow, Rows
from awakeables.ports import Clock, Expectation, Page
from awakeables.store.batches import beginning_of, first_of
from awakeables.store.membership import LocalHints, LocalMembership, LocalWatermark

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class MemoryTables:
    """All rows, in dicts: the tables that commands are decided on, with journals and schemas.

    Attributes:
        rows: The same dicts, typed as decisions see them: a value may be None, but only within a commit.
    """

    def __init__(self, retention_ms: int) -> None:
        self.rows = rows = Rows(retention_ms, CompleteTable)
        self.invocations = cast("dict[str, Invocation]", rows.invocations)
        self.awakeables = cast("dict[str, AwakeableRow]", rows.awakeables)
        self.effects = cast("dict[str, EffectRow]", rows.effects)
        self.dead_letters = cast("dict[str, DeadLetter]", rows.dead_letters)
        self.sources = cast("dict[str, str]", rows.sources)
        self.keys = cast("dict[tuple[str, str], tuple[str, str]]", rows.keys)
        self.positions = cast("dict[tuple[str, int], PositionRow]", rows.positions)
        self.journals: dict[str, dict[int, bytes]] = {}
        self.schemas: dict[str, bytes] = {}

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

    def find(self, command: Command, now_ms: int, living: Collection[str]) -> object:
        """Find the rows that a command is decided on, while these instances live."""
        match command:
            case Claim():
                suspects = self._due(command, now_ms, 1, suspects=True) if command.suspect else []
                due = self._due(command, now_ms, command.limit - len(suspects), suspects=False)
                return self._with_effects([*suspects, *due], command.owner)
            case Expire():
                return self._overdue(horizon_of(command, now_ms), command.limit)
            case ClaimEffects():
                return self._unclaimed(command.owner, {command.owner, *living}, command.limit)
            case Kill():
                rows = self.awakeables.values()
                return [r for r in rows if r.invocation_id == command.invocation_id and r.state == "pending"]
            case PurgeDeadLetters():
                return self._old(command)
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
            and f"{row.service}/{row.handler}" not in command.not_handlers
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
            return search(command, self.tables.find(command, now_ms, self.membership.living), now_ms, changes)
        return BY_KEY[type(command)](command, self.tables.rows, now_ms, changes)

    def keep(self, changes: Changes) -> None:
        """Make durable what the commands have changed; a test makes this fail."""
        self.tables.write(changes)

    async def history(self, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
        tables = self.tables
        return {key: decode_chunks(tables.chunks(key)) for key in invocation_ids if key in tables.journals}

    async def outcomes(self, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
        rows = (self.tables.awakeables.get(key) for key in awakeable_ids)
        return {row.id: row.outcome for row in rows if row is not None and row.outcome is not None}

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
        return [Ended(id=key, awakeables=tuple(awakeables_created(tables.chunks(key)))) for key in keys]

    async def read_up_to(
        self, topic: str, partitions: int, mine: Sequence[PartitionRead], *, topic_id: str | None = None
    ) -> int | None:
        return self._watermark.note(topic, partitions, mine, await self.positions(topic), topic_id)

    async def positions(self, topic: str) -> list[Position]:
        rows = sorted(self.tables.positions.items())
        return [row.position for (name, _), row in rows if name == topic]

    async def invocation(self, invocation_id: str) -> Invocation | None:
        return self.tables.invocations.get(invocation_id)

    async def invocations(
        self, page: Page, *, status: Status | None = None, service: str | None = None
    ) -> list[Invocation]:
        rows = self.tables.invocations.values()
        found = _newest(
            {row.id: row for row in rows if status in (None, row.status) and service in (None, row.service)},
            page,
        )
        return [brief_invocation(row) for row in found]

    async def keyed(self, scopes: Sequence[str], key: str) -> list[Invocation]:
        found = {self.tables.keys[scope, key][1] for scope in scopes if (scope, key) in self.tables.keys}
        return [brief_invocation(self.tables.invocations[key]) for key in sorted(found, reverse=True)]

    async def idempotency_key(self, invocation_id: str) -> str | None:
        keys = self.tables.keys.items()
        return next((key for (_, key), known in keys if known[1] == invocation_id), None)

    async def journal(self, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
        chunks, whole = beginning_of(self.tables.chunks(invocation_id), most_bytes)
        return decode_chunks(chunks), whole

    async def awakeable(self, awakeable_id: str) -> AwakeableRow | None:
        return self.tables.awakeables.get(awakeable_id)

    async def awakeables(self, page: Page, *, state: State | None = None) -> list[AwakeableRow]:
        rows = self.tables.awakeables.values()
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
        pending = [row.created_ms for row in tables.awakeables.values() if row.state == "pending"]
        unsent = [row.created_ms for _, row in tables.in_state("unsent")]
        statuses = Counter(row.status for row in tables.invocations.values() if row.status != "completed")
        oldest = {"awakeables_oldest_ms": pending, "effects_oldest_ms": unsent}
        return {
            "awakeables_pending": len(pending),
            "invocations_open": statuses.total(),
            **{f"invocations_{status}": statuses[status] for status in STATUSES if status != "completed"},
            **{name: min(made) for name, made in oldest.items() if made},
            "effects_unsent": len(unsent),
            "effects_failed": len(tables.failed),
            "dead_letters": len(tables.dead_letters),
        }


def _newest(rows: Mapping[str, V], page: Page) -> list[V]:
    before = None if page.before is None else by_issue(page.before)
    keys = sorted((k for k in rows if before is None or by_issue(k) < before), key=by_issue, reverse=True)
    return [rows[key] for key in keys[: page.limit]]
