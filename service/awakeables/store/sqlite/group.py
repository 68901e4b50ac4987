"""One group of commands in one transaction: load, decide, write.

The writer caches the rows that it wrote last, so a hot cycle (begin, advance, settle, end) reads nothing
back. Other rows are loaded with one statement per table. Every statement that writes is guarded by the
cached values. If a guard fails, a cached row was stale: the cache is dropped, and the group is decided
again, command by command, over rows loaded in that transaction.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from awakeables.core.commands import Command, Expire, Release
from awakeables.core.decide.decisions import BY_KEY, SearchDecision, searches
from awakeables.core.decide.needs import Keys, missing, needs, needs_of_loaded
from awakeables.core.replies import Reply
from awakeables.core.rows import Changes, NotLoaded, Rows, TableName
from awakeables.store.sqlite.loading import find, load
from awakeables.store.sqlite.writing import Counts, write

MAX_CACHED_ROWS = 20_000
"""How many invocations, and how many awakeables, are cached: about 20 MB of small rows."""


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

    def __init__(self, connection: sqlite3.Connection, known: RowCache, now_ms: int) -> None:
        self._connection = connection
        self._known = known
        self._rows = known.rows
        self._now_ms = now_ms
        self._loaded: set[tuple[TableName, Any]] = set()
        self._ended: list[str] = []
        self.counts: Counts = defaultdict(int)
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
            search = searches(command) if kind is Release or kind not in BY_KEY else None
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
                self._write(changes)
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
        for few in (rows.effects, rows.dead_letters, rows.sources, rows.keys):
            few.clear()
        for many in (rows.invocations, rows.awakeables):
            if len(many) > MAX_CACHED_ROWS:
                for key in list(many)[: MAX_CACHED_ROWS // 4]:
                    del many[key]

    def load_missed(self, unknown: NotLoaded) -> None:
        """Load what was not loaded ahead."""
        self._load({unknown.table: set(unknown.keys)})

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
        found = find(self._connection, command, self._now_ms)
        if isinstance(command, Expire):
            self._load({"invocations": {row.invocation_id for row in found}})
        return decision(command, found, self._now_ms, changes)

    def _write(self, changes: Changes) -> None:
        """Write the changes, and note which changed rows have ended; the others stay cached."""
        rows = self._rows
        if write(self._connection, changes, self._known.schemas, self.counts):
            self.wrote = True
        if changes.purged or changes.deleted_dead_letters or changes.deleted_effects:
            self._note_deleted(changes)
        for key in changes.invocations:
            row = rows.invocations[key]
            if row is None or row.result_json is not None:
                self._ended.append(key)
        for key in changes.awakeables:
            awakeable = rows.awakeables[key]
            if awakeable is None or awakeable.state != "pending":
                self._ended.append(key)
        if self._loaded:
            self._loaded.difference_update(("invocations", key) for key in changes.invocations)
            self._loaded.difference_update(("awakeables", key) for key in changes.awakeables)
            self._loaded.difference_update(("positions", key) for key in changes.positions)

    def _note_deleted(self, changes: Changes) -> None:
        rows = self._rows
        purged = {ended.id for ended in changes.purged}
        awakeables = {key for ended in changes.purged for key in ended.awakeables}
        rows.invocations.update(dict.fromkeys(purged))
        rows.awakeables.update(dict.fromkeys(awakeables))
        rows.keys.update({key: None for key, known in rows.keys.items() if known and known[1] in purged})
        self._loaded.update(("invocations", key) for key in purged)
        self._loaded.update(("awakeables", key) for key in awakeables)
        letters = set(changes.deleted_dead_letters)
        rows.dead_letters.update(dict.fromkeys(letters))
        rows.sources.update({source: None for source, key in rows.sources.items() if key in letters})
        rows.effects.update(dict.fromkeys(changes.deleted_effects))
