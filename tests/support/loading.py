"""A memory store that also decides over nothing but what is loaded ahead, and tells what was missing."""

from __future__ import annotations

from awakeables.core.answers import Answer
from awakeables.core.decide.decisions import BY_KEY, searches
from awakeables.core.decide.needs import missing, needs, needs_of_loaded
from awakeables.core.orders import Member
from awakeables.core.rows import Changes, NotLoaded, Rows
from awakeables.errors import AwakeablesError
from awakeables.ports import Clock
from awakeables.store.memory import MemoryStore

LOADED_LATE: frozenset[tuple[str, str]] = frozenset(
    {
        ("Advance", "effects"),  # it is sent again after a lost acknowledgement: what of it is unsent?
        ("Begin", "effects"),  # the same
    }
)
"""Orders that may have to load from a table after the group's load, and why."""


class LoadingStore(MemoryStore):
    """Decides twice.

    Attributes:
        missed: What a decision had to load although its keys were loaded ahead.
    """

    def __init__(self, *, clock: Clock, retention_ms: int) -> None:
        super().__init__(clock=clock, retention_ms=retention_ms)
        self.missed: set[tuple[str, str]] = set()

    def decide(self, member: Member, now_ms: int, changes: Changes) -> Answer:
        if searches(member) is None:
            self._try(member, now_ms)
        return super().decide(member, now_ms, changes)

    def _try(self, member: Member, now_ms: int) -> None:
        loaded = Rows(self.tables.rows.retention_ms)
        keys = needs([member])
        while keys:
            for table, wanted in keys.items():
                everything = getattr(self.tables.rows, table)
                getattr(loaded, table).update({key: everything[key] for key in wanted})
            keys = missing(needs_of_loaded([member], loaded), loaded)
        try:
            BY_KEY[type(member)](member, loaded, now_ms, Changes(loaded))
        except NotLoaded as unknown:
            self.missed.add((type(member).__name__, unknown.table))
        except AwakeablesError:
            pass  # the decision itself says so as well
