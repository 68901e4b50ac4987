"""What the store knows about claimed invocations: their journals, and outcomes that came meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from awakeables.core.journal import Entry, OutcomeDelivered, wait_of
from awakeables.core.outcomes import Outcome
from awakeables.errors import ValueSealed
from awakeables.ports import JournalReader

UNREADABLE = (msgspec.MsgspecError, ValueSealed)


@dataclass(frozen=True, slots=True)
class Histories:
    """All of it by the invocations' IDs.

    Attributes:
        journals: Without those of invocations that have ended and were purged.
        problems: Why a journal, or an outcome that it waits for, can't be read.
        outcomes: The outcomes of settled awakeables, by their IDs, in the order of settlement.
    """

    journals: dict[str, list[Entry]] = field(default_factory=dict)
    problems: dict[str, msgspec.MsgspecError | ValueSealed] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)

    def add(self, asked: Mapping[str, str], outcomes: Mapping[str, Outcome]) -> None:
        """Add outcomes of awakeables, whose invocations are given."""
        for awakeable_id, outcome in outcomes.items():
            self.outcomes.setdefault(asked[awakeable_id], {})[awakeable_id] = outcome


async def histories(store: JournalReader, invocation_ids: Sequence[str]) -> Histories:
    """Read journals, then the outcomes of the awakeables in them of which the handler was not told yet."""
    found = Histories()
    try:
        found.journals.update(await store.history(invocation_ids))
    except UNREADABLE:
        for invocation_id in invocation_ids:
            try:
                found.journals.update(await store.history([invocation_id]))
            except UNREADABLE as error:
                found.problems[invocation_id] = error
    asked: dict[str, str] = {}
    for invocation_id, journal in found.journals.items():
        told = {entry.of for entry in journal if isinstance(entry, OutcomeDelivered)}
        for index, entry in enumerate(journal):
            wait = wait_of(entry)
            if wait is not None and index not in told:
                asked[wait] = invocation_id
    if asked:
        try:
            found.add(asked, await store.outcomes(list(asked)))
        except ValueSealed:
            for awakeable_id, invocation_id in asked.items():
                try:
                    found.add(asked, await store.outcomes([awakeable_id]))
                except ValueSealed as error:
                    found.problems[invocation_id] = error
    return found
