"""What the store knows about claimed invocations: their journals, and outcomes that came meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from awakeables.core.journal import Entry, OutcomeDelivered, wait_of
from awakeables.core.outcomes import Outcome
from awakeables.ports import JournalReader


@dataclass(frozen=True, slots=True)
class Histories:
    """All of it by the invocations' IDs.

    Attributes:
        journals: Without those of invocations that have ended and were purged.
        problems: Why this release can't read a journal.
        outcomes: The outcomes of settled awakeables, by their IDs, in the order of settlement.
    """

    journals: dict[str, list[Entry]] = field(default_factory=dict)
    problems: dict[str, msgspec.MsgspecError] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)


async def histories(store: JournalReader, invocation_ids: Sequence[str]) -> Histories:
    """Read journals, then the outcomes of the awakeables in them of which the handler was not told yet."""
    found = Histories()
    try:
        found.journals.update(await store.history(invocation_ids))
    except msgspec.MsgspecError:
        for invocation_id in invocation_ids:
            try:
                found.journals.update(await store.history([invocation_id]))
            except msgspec.MsgspecError as error:
                found.problems[invocation_id] = error
    asked: dict[str, str] = {}
    for invocation_id, journal in found.journals.items():
        told = {entry.of for entry in journal if isinstance(entry, OutcomeDelivered)}
        for index, entry in enumerate(journal):
            wait = wait_of(entry)
            if wait is not None and index not in told:
                asked[wait] = invocation_id
    if asked:
        for awakeable_id, outcome in (await store.outcomes(list(asked))).items():
            found.outcomes.setdefault(asked[awakeable_id], {})[awakeable_id] = outcome
    return found
