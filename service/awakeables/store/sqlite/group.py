"""One group of commands in one transaction: load, decide, write.

The writer caches the rows that it wrote last, so a hot cycle (begin, advance, settle, end) reads nothing
back. Other rows are loaded with one statement per table. Every statement that writes is guarded by the
cached values. If a guard fails, a cached row was stale: the cache is dropped, and the group is decided
again, command by command, over rows loaded in that transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec.structs import astuple

from awakeables.core.commands import Command, Ended, Expire
from awakeables.core.decide.decisions import BY_KEY, BY_SEARCH, SearchDecision
from awakeables.core.decide.needs import Keys, missing, needs, needs_of_loaded
from awakeables.core.effects import EffectState
from awakeables.core.objects import ObjectKey
from awakeables.core.records import text_bytes
from awakeables.core.replies import Reply
from awakeables.core.rows import Changes, NotLoaded, Rows, TableName
from awakeables.core.sealed import MAGIC
from awakeables.store.rows import Columns, dead_letter_notes, dead_letter_row
from awakeables.store.sealing import AWAKEABLE, CHUNK, DEAD_LETTER, EFFECT, INVOCATION, REQUEST, STATE, Sealed
from awakeables.store.sqlite.connection import FileConnection
from awakeables.store.sqlite.counts import FAILED, LETTERS, PENDING, UNSENT
from awakeables.store.sqlite.loading import find, id_list, load
from awakeables.store.sqlite.queries import QUERIES

MAX_CACHED_ROWS = 20_000
"""How many invocations, awakeables, and queues of keys are cached, each: about 20 MB of small rows."""

STATES: dict[EffectState, str] = {"unsent": UNSENT, "failed": FAILED}
"""The counter for effects in each state."""

SEALED: dict[str, Sealed] = {
    "insert_chunk": CHUNK,
    "insert_invocation": INVOCATION,
    "update_invocation": Sealed("invocations", (10,), {"failure": 9}),
    "move_invocation": Sealed("invocations", (17,), {"failure": 9}),
    "end_invocation": Sealed("invocations", (19,), {"failure": 9, "result": 17}),
    "insert_awakeable": AWAKEABLE,
    "note_awakeable": Sealed("awakeables", (3,), {"book": 0, "beat": 1}),
    "settle_awakeable": Sealed("awakeables", (7,), {"book": 0, "beat": 1, "outcome": 6}),
    "insert_effect": EFFECT,
    "update_effect": Sealed("outbox", (5,), {"reason": 2}),
    "insert_dead_letter": DEAD_LETTER,
    "write_state": STATE,
    "insert_idempotent": REQUEST,
}
"""Where the values to seal are, by statement."""

Statements: TypeAlias = defaultdict[str, list[Columns]]
"""The values to run each query with, by its name."""


class StaleRows(Exception):
    """A guard failed: the rows are not as they were cached. Load them and decide again."""


class RowCache:
    """The rows that the writer wrote last, as they are in the database; bounded.

    Attributes:
        schemas: Hashes of the schemas that are stored.
    """

    def __init__(self, retention_ms: int) -> None:
        self.rows = Rows(retention_ms)
        self.schemas: set[str] = set()


class Group:
    """Decides and writes commands in the open transaction.

    Attributes:
        counts: The changes in the numbers of rows, by kind.
        wrote: Whether anything was written.
    """

    def __init__(
        self, connection: FileConnection, known: RowCache, now_ms: int, living: Collection[str]
    ) -> None:
        self._connection = connection
        self._seals = connection.sealing.key_id is not None
        self._living = living
        self._known = known
        self._rows = known.rows
        self._now_ms = now_ms
        self._loaded: set[tuple[TableName, Any]] = set()
        self._ended: list[str] = []
        self._idle: list[ObjectKey] = []
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.wrote = False

    def decide(self, commands: Sequence[Command]) -> list[Reply]:
        """Decide all commands over cached and loaded rows, and write the changes at the end.

        Raises:
            StaleRows: A cached row is not as it is in the database.
            sqlite3.IntegrityError: A row that should be new exists, or data can't be stored.
        """
        rows, now_ms = self._rows, self._now_ms
        changes = Changes(rows)
        replies: list[Reply] = []
        ahead = False
        for place, command in enumerate(commands):
            kind = type(command)
            search = BY_SEARCH.get(kind)
            if search is not None:
                self._write(changes)  # the search must see it
                changes = Changes(rows)
                replies.append(self._search(command, search, changes))
            while search is None:
                try:
                    replies.append(BY_KEY[kind](command, rows, now_ms, changes))
                    break
                except NotLoaded as unknown:
                    if ahead:
                        self.load_missed(unknown)
                    else:
                        self._load_ahead(commands[place:])
                        ahead = True
            if changes.purged or changes.deleted_dead_letters or changes.deleted_effects:
                self._write(changes)  # the next command must not find them
                changes = Changes(rows)
        self._write(changes)
        return replies

    def decide_one_by_one(self, commands: Sequence[Command]) -> list[Reply]:
        """Load, decide and write one command after the other."""
        replies: list[Reply] = []
        for command in commands:
            self._load_ahead([command], new=True)
            replies += self.decide([command])
        return replies

    def close(self) -> None:
        """Keep only those rows cached that the next commits may need, now that everything is durable.

        Rows that were read and not changed are not hot, and may be large; those that have ended are not
        expected to change any more.
        """
        rows = self._rows
        for table, key in self._loaded:
            getattr(rows, table).pop(key, None)
        for key in self._ended:
            if rows.invocations.pop(key, None) is None:
                rows.awakeables.pop(key, None)
        for few in (rows.effects, rows.dead_letters, rows.sources, rows.keys, rows.queue, rows.states):
            few.clear()
        rows.schedules.clear()
        rows.pauses.clear()
        for object_key in self._idle:
            rows.objects.pop(object_key, None)
        many: tuple[dict[Any, Any], ...] = (rows.invocations, rows.awakeables, rows.objects)
        for cached in many:
            if len(cached) > MAX_CACHED_ROWS:
                for key in list(cached)[: MAX_CACHED_ROWS // 4]:
                    del cached[key]

    def load_missed(self, unknown: NotLoaded) -> None:
        """Load what was not loaded ahead."""
        self._load({unknown.table: set(unknown.keys)})
        if unknown.table == "queue":
            # And who was found, whose row is what the decision asks for next.
            found: set[Any] = {key for key in self._rows.queue.values() if key is not None}
            self._load({"invocations": found})

    def _load_ahead(self, commands: Sequence[Command], *, new: bool = False) -> None:
        self._load(needs(commands, new=new))
        while self._load(needs_of_loaded(commands, self._rows)):
            pass

    def _load(self, keys: Keys) -> bool:
        """Load the rows that are missing; return whether there were any."""
        unknown = missing(keys, self._rows)
        for table, wanted in unknown.items():
            load(self._connection, table, wanted, self._rows)
            self._loaded.update((table, key) for key in wanted)
        return bool(unknown)

    def _search(self, command: Command, decision: SearchDecision, changes: Changes) -> Reply:
        """Decide a command over rows found by a search."""
        self._load(needs([command]))
        found = find(self._connection, command, self._now_ms, self._living)
        if isinstance(command, Expire):
            self._load({"invocations": {row.invocation_id for row in found}})
        return decision(command, found, self._now_ms, changes)

    def _write(self, changes: Changes) -> None:
        """Write the changes: one statement per kind of change, each guarded by the values that were read."""
        if changes.published:
            self._delete_published(changes.published)
        if changes.schemas:
            self._add_schemas(changes.schemas)
        statements: Statements = defaultdict(list)
        if changes.invocations:
            self._invocations(changes, statements)
        if changes.awakeables:
            self._awakeables(changes, statements)
        if changes.effects:
            self._effects(changes, statements)
        if changes.positions:
            self._positions(changes, statements)
        rare = changes.keys or changes.dead_letters or changes.objects or changes.states
        if rare or changes.schedules or changes.pauses:
            self._others(changes, statements)
        for name, values in (self._sealed(statements) if self._seals else statements).items():
            self.wrote = True
            if self._connection.executemany(QUERIES[name], values).rowcount != len(values):
                raise StaleRows(name)
        if self._loaded:
            self._loaded.difference_update(("invocations", key) for key in changes.invocations)
            self._loaded.difference_update(("awakeables", key) for key in changes.awakeables)
            self._loaded.difference_update(("positions", key) for key in changes.positions)
            self._loaded.difference_update(("objects", key) for key in changes.objects)
            self._note_new_waits(changes)
        if changes.purged or changes.deleted_dead_letters or changes.deleted_effects:
            self._delete(changes)
        for _ in range(changes.probes):
            self._run("add_probe")
            self._run("drop_probe")

    def _sealed(self, statements: Statements) -> Statements:
        sealed: Statements = defaultdict(list)
        for name, values in statements.items():
            places = SEALED.get(name)
            sealed[name] = values if places is None else self._connection.sealing.sealed(places, values)
        return sealed

    def _invocations(self, changes: Changes, statements: Statements) -> None:
        """Invocations, and the chunks of their journals: only a change of the row appends to one."""
        if changes.chunks:
            statements["insert_chunk"] = changes.chunks
        known = changes.rows.invocations
        for key, before in changes.invocations.items():
            row = known[key]
            assert row is not None
            if row.result_json is not None:
                self._ended.append(key)
            if before is None:
                self.counts[row.status] += 1
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
            if row.awaited is not before.awaited and not before.awaited:
                statements["await_invocation"].append((key,))
            if row.versions_json is not before.versions_json:
                statements["set_versions"].append((row.versions_json, key))
            if row.status != before.status:
                self.counts[before.status] -= 1
                self.counts[row.status] += 1
            if (
                row.status is before.status
                and row.owner is before.owner
                and row.due_ms == before.due_ms
                and row.cancelled_ms == before.cancelled_ms
                and row.acts_json is before.acts_json
                and row.pausing_ms == before.pausing_ms
            ):
                statements["update_invocation"].append((*progress, *guard))
                continue
            place = (
                row.status,
                row.owner,
                row.due_ms,
                row.cancelled_ms,
                row.acts_json,
                row.ticket,
                row.pausing_ms,
            )
            if row.result_json is before.result_json:
                statements["move_invocation"].append((*progress, *place, *guard))
            else:
                end = (row.result_json, row.ended_ms)
                statements["end_invocation"].append((*progress, *place, *end, *guard))

    def _awakeables(self, changes: Changes, statements: Statements) -> None:
        known = changes.rows.awakeables
        for key, before in changes.awakeables.items():
            row = known[key]
            assert row is not None
            if row.state != "pending":
                self._ended.append(key)
            if before is None:
                self.counts[PENDING] += row.state == "pending" and row.source_utf8 is None
                statements["insert_awakeable"].append(astuple(row))
                continue
            if row.deadline_ms != before.deadline_ms or row.watch_json is not before.watch_json:
                statements["watch_awakeable"].append((row.deadline_ms, row.watch_json, key))
            notes = (row.verdicts_json, row.heartbeat_json, row.topic)
            guard = (key, before.state, before.verdicts_json)
            if row.state == before.state:
                statements["note_awakeable"].append((*notes, *guard))
            else:
                self.counts[PENDING] -= row.source_utf8 is None
                change = (row.state, row.settled_ms, row.settled_by, row.outcome_json)
                statements["settle_awakeable"].append((*notes, *change, *guard))

    def _note_new_waits(self, changes: Changes) -> None:
        """Add new awakeables to what was found by their invocations and calls, for the next commands."""
        rows = self._rows
        if rows.waiting or rows.pending:
            for key, before in changes.awakeables.items():
                row = rows.awakeables[key]
                if before is None and row is not None:
                    for known in (rows.pending.get(row.invocation_id), rows.waiting.get(row.source or "")):
                        if known is not None:
                            known.append(key)

    def _delete_published(self, event_ids: Sequence[str]) -> None:
        """Delete effects in either state; failed ones, which are rare, are looked for only if needed."""
        ids = [(event_id,) for event_id in event_ids]
        self.wrote = True
        deleted = self._connection.executemany(QUERIES["delete_unsent"], ids).rowcount
        self.counts[UNSENT] -= deleted
        if deleted != len(ids):
            self.counts[FAILED] -= self._connection.executemany(QUERIES["delete_failed"], ids).rowcount

    def _effects(self, changes: Changes, statements: Statements) -> None:
        known = changes.rows.effects
        for key, before in changes.effects.items():
            row = known[key]
            if before is None:
                if row is not None:
                    self.counts[STATES[row.state]] += 1
                    statements["insert_effect"].append(astuple(row))
                    looks_sealed = row.value is not None and row.value[:8] == MAGIC
                    if looks_sealed or (row.key is not None and row.key[:8] == MAGIC):
                        self._seals = True
                continue
            self.counts[STATES[before.state]] -= 1
            if row is None:
                statements[f"delete_{before.state}"].append((key,))
                continue
            self.counts[STATES[row.state]] += 1
            guard = (key, before.state, before.claimed_by)
            if row.state == before.state:
                statements["claim_effect"].append((row.claimed_by, *guard))
            else:
                change = (row.state, row.claimed_by, row.reason_utf8, row.acts_json, row.position)
                statements["update_effect"].append((*change, *guard))

    def _others(self, changes: Changes, statements: Statements) -> None:
        """What most commits don't change."""
        if changes.keys or changes.dead_letters:
            self._keys_and_letters(changes, statements)
        if changes.objects or changes.states:
            self._objects(changes, statements)
        if changes.schedules or changes.pauses:
            self._operated(changes, statements)

    def _positions(self, changes: Changes, statements: Statements) -> None:
        for key, before in changes.positions.items():
            row = changes.rows.positions[key]
            assert row is not None
            if before is None:
                statements["insert_position"].append(astuple(row))
            else:
                change = (row.next, row.epoch, row.owner, row.again_before, row.topic_id, row.paused_ms)
                statements["update_position"].append((*change, *key, before.next, before.epoch))

    def _operated(self, changes: Changes, statements: Statements) -> None:
        """Schedules, and what operators have paused."""
        for target, pause in changes.pauses.items():
            if pause is not None:
                statements["delete_pause"].append((target,))
            if (now := changes.rows.pauses[target]) is not None:
                statements["insert_pause"].append(astuple(now))
        for name, before in changes.schedules.items():
            row = changes.rows.schedules[name]
            if before is None:
                if row is not None:
                    statements["insert_schedule"].append(astuple(row))
            elif row is None:
                statements["delete_schedule"].append((name, before.next_ms))
            else:
                statements["update_schedule"].append((*astuple(row)[1:], name, before.next_ms))

    def _keys_and_letters(self, changes: Changes, statements: Statements) -> None:
        for letter_id, before in changes.dead_letters.items():
            letter = changes.rows.dead_letters[letter_id]
            assert letter is not None
            if before is None:
                self.counts[LETTERS] += 1
                statements["insert_dead_letter"].append(dead_letter_row(letter))
                self._seals = True  # its bytes may look sealed
            else:
                guard = (letter_id, before.resent, before.count)
                statements["update_dead_letter"].append((*dead_letter_notes(letter), *guard))
        for key in changes.keys:
            known = changes.rows.keys[key]
            if known is not None:
                statements["insert_idempotent"].append((*map(text_bytes, key), *known))

    def _objects(self, changes: Changes, statements: Statements) -> None:
        rows = self._rows
        rows.queue.clear()  # found before what is written here
        for object_key, before in changes.objects.items():
            row = rows.objects[object_key]
            if before is None:
                if row is not None:
                    statements["insert_object"].append(astuple(row))
                continue
            guard = (*object_key, before.head, before.tail, before.length, before.paused_ms)
            if row is None:
                self._idle.append(object_key)
                statements["delete_object"].append(guard)
            else:
                change = (row.head, row.tail, row.length, row.since_ms, row.paused_ms, row.acts_json)
                statements["update_object"].append((*change, *guard))
        for (object_key, name), (value, at_ms) in changes.states.items():
            rows.states.pop(object_key, None)
            if value is None:
                self.wrote = True
                self._connection.execute(QUERIES["clear_state"], (*object_key, text_bytes(name)))
            else:
                statements["write_state"].append((*object_key, text_bytes(name), value, at_ms))

    def _add_schemas(self, schemas: Mapping[str, bytes]) -> None:
        new = [each for each in schemas.items() if each[0] not in self._known.schemas]
        if new:
            self.wrote = True
            self._connection.executemany(QUERIES["insert_schema"], new)
            self._known.schemas.update(schemas)

    def _delete(self, changes: Changes) -> None:
        """Delete ended invocations, and old dead letters and refused effects."""
        if changes.purged:
            self._purge(changes.purged)
        rows, letters, effects = self._rows, set(changes.deleted_dead_letters), changes.deleted_effects
        if letters:
            self.counts[LETTERS] -= self._run("delete_dead_letters", id_list(letters))
            rows.dead_letters.update(dict.fromkeys(letters))
            rows.sources.update({source: None for source, key in rows.sources.items() if key in letters})
        if effects:
            self.counts[FAILED] -= self._run("delete_effects", id_list(effects))
            rows.effects.update(dict.fromkeys(effects))

    def _purge(self, purged: Sequence[Ended]) -> None:
        """Delete ended invocations with everything that belongs to them."""
        ids = {ended.id for ended in purged}
        awakeables = {key for ended in purged for key in ended.awakeables}
        listed = id_list(ids)
        for query in ("delete_invocations", "delete_journals", "delete_idempotent"):
            self._run(query, listed)
        listed = id_list(awakeables)
        (pending,) = self._connection.execute(QUERIES["count_pending"], (listed,)).fetchone()
        self.counts[PENDING] -= pending
        self._run("delete_awakeables", listed)
        rows = self._rows
        rows.invocations.update(dict.fromkeys(ids))
        rows.awakeables.update(dict.fromkeys(awakeables))
        rows.keys.update({key: None for key, known in rows.keys.items() if known and known[1] in ids})
        self._loaded.update(("invocations", key) for key in ids)
        self._loaded.update(("awakeables", key) for key in awakeables)

    def _run(self, name: str, *values: str) -> int:
        self.wrote = True
        return self._connection.execute(QUERIES[name], values).rowcount
