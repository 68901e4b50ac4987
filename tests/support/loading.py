"""A memory store that also decides over rows that are loaded, ahead or one by one, with the same answers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from awakeables.core.commands import Command
from awakeables.core.decide.decisions import BY_KEY, BY_SEARCH
from awakeables.core.decide.needs import missing, needs, needs_of_loaded
from awakeables.core.replies import Reply
from awakeables.core.rows import Changes, NotLoaded, Rows, TableName
from awakeables.errors import AwakeablesError
from awakeables.ports import Clock
from awakeables.store.memory import MemoryStore

LOADED_LATE: frozenset[tuple[str, str]] = frozenset(
    {
        ("Advance", "effects"),  # it is sent again after a lost acknowledgement: what of it is unsent?
        ("Begin", "effects"),  # the same
        ("Begin", "invocations"),  # its key's queue is full, or has no run: is it there, and sent again?
        ("Advance", "awakeables"),  # it is sent twice in one group: which waits of it are settled by now?
        ("Advance", "keys"),  # the same: which of its calls were not created, because of their keys?
        ("Begin", "keys"),  # the same
        ("Advance", "waiting"),  # it ends what another order of the group has begun to wait for
        ("Kill", "queue"),  # who comes next has been ended by another order of the group, or by this one
        ("Kill", "invocations"),  # the same: who comes after that one?
        ("Restart", "queue"),  # the same
        ("Restart", "invocations"),  # the same
        ("Advance", "queue"),  # the same
        ("Begin", "queue"),  # the same
        ("Begin", "awakeables"),  # it is sent again, and has called off what may be settled by now
        ("Begin", "waiting"),  # it calls off a run: who waits for its promises?
        ("Begin", "pending"),  # the same
        ("Advance", "invocations"),  # it leaves a run that nobody has claimed: who waits for its promises?
        ("Advance", "pending"),  # for what does another wait since another order of the group?
        ("Fire", "invocations"),  # the key of a workflow has a run, and another tick follows: is that open?
        ("Advance", "states"),  # another order of the group has written the state since
    }
)
"""Orders that may have to load from a table after the group's load, and why."""


class LoadingStore(MemoryStore):
    """Decides each order three times.

    Attributes:
        missed: What a decision had to load although its keys were loaded ahead.
    """

    def __init__(self, *, clock: Clock, retention_ms: int, shared: bool = False) -> None:
        super().__init__(clock=clock, retention_ms=retention_ms, shared=shared)
        self.missed: set[tuple[str, str]] = set()

    def decide(self, member: Command, now_ms: int, changes: Changes) -> Reply:
        if type(member) in BY_SEARCH:
            return super().decide(member, now_ms, changes)
        ahead, one_by_one = self._ahead(member), Rows(self.tables.rows.retention_ms)
        named = needs([member])
        for table, keys in needs([member], new=True).items():
            self._load(one_by_one, table, keys - named[table])
        try:
            answers = [
                self._decide(member, now_ms, ahead, self.missed),
                self._decide(member, now_ms, one_by_one, set()),
            ]
        except AwakeablesError:
            answers = []  # the decision over all rows says so as well
        answer = super().decide(member, now_ms, changes)
        assert all(each == answer for each in answers), (member, answers, answer)
        return answer

    def _decide(self, member: Command, now_ms: int, rows: Rows, missed: set[tuple[str, str]]) -> Reply:
        """Decide over rows that are loaded when they are asked for."""
        while True:
            changes = Changes(rows)
            try:
                return BY_KEY[type(member)](member, rows, now_ms, changes)
            except NotLoaded as error:
                unknown = error
            changed = [name for name, value in vars(changes).items() if value and name != "rows"]
            assert not changed, f"{member} has changed {changed} and then asked for {unknown}"
            missed.add((type(member).__name__, unknown.table))
            self._load(rows, unknown.table, unknown.keys)

    def _ahead(self, member: Command) -> Rows:
        """What is loaded ahead for a member."""
        loaded = Rows(self.tables.rows.retention_ms)
        keys = needs([member], new=True)
        while keys:
            for table, wanted in keys.items():
                self._load(loaded, table, wanted)
            keys = missing(needs_of_loaded([member], loaded), loaded)
        return loaded

    def _load(self, rows: Rows, table: TableName, keys: Iterable[Hashable]) -> None:
        everything = getattr(self.tables.rows, table)
        getattr(rows, table).update({key: everything[key] for key in keys})
