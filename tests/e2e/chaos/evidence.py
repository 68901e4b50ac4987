"""What is left of a run once everything has stopped, and what may be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeAlias, TypeVar

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import EFFECT_STATES
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Entry
from awakeables.core.outcomes import as_resolution
from awakeables.ports import Page, Store
from awakeables.telemetry.events import FUNCTION_DOWN
from e2e.chaos.app import SUBSCRIPTIONS
from e2e.chaos.faults import Harm
from e2e.chaos.flows import TICKS
from e2e.chaos.kafka import Records, ends_of, everything_in
from e2e.chaos.ledger import Line
from e2e.chaos.load import Call
from e2e.chaos.operators import Act
from e2e.chaos.records import Produced
from e2e.chaos.world import PARTITIONS, World

T = TypeVar("T")
Row = TypeVar("Row", bound="_Identified")

PAGE = 1000

Kind: TypeAlias = Literal["lost", "settled twice", "told wrongly", "dead letters without cause"]


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Violation:
    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is left of a run once everything has stopped.

    Attributes:
        produced: The records that were planned for the subscribed topic.
        records: Those that are in it.
        read: For each subscription, the position of each partition.
        record_ends: The end of each partition of the subscribed topic.
        copies: The records of the topic of dead letters.
        added: For each key, the IDs of its records in the order in which they ran.
        next_tick_ms: The tick of the schedule that would have been next.
        stages: For each key of the workflow, what its run has put down.
        acts: What operators have done.
        pauses: The handlers that are paused.
        harms: The faults that were done.
        outages: How often an instance has found the function down.
    """

    invocations: Mapping[str, Invocation]
    journals: Mapping[str, Sequence[Entry]]
    awakeables: Mapping[str, AwakeableRow]
    versions: Mapping[str, Sequence[int]]
    positions: Mapping[int, int]
    ends: Mapping[int, int]
    unsent: int
    dead_letters: Sequence[DeadLetter]
    answers: Records
    tasks: Records
    ledger: Sequence[Line]
    calls: Sequence[Call]
    booked: Mapping[str, Sequence[str]]
    queues: int
    produced: Sequence[Produced]
    records: Records
    read: Mapping[str, Mapping[int, int]]
    record_ends: Mapping[int, int]
    copies: Records
    added: Mapping[str, Sequence[str]]
    next_tick_ms: int | None
    stages: Mapping[str, Sequence[str]]
    acts: Sequence[Act]
    pauses: Sequence[str]
    harms: Sequence[Harm]
    outages: int

    def lines(self, kind: str) -> Iterator[Line]:
        return (line for line in self.ledger if line["kind"] == kind)


async def gather(
    world: World,
    calls: Sequence[Call],
    produced: Sequence[Produced] = (),
    acts: Sequence[Act] = (),
    harms: Sequence[Harm] = (),
) -> Evidence:
    """Read the store as a service would, and the topics as a consumer would."""
    await world.books.check()
    store = world.books.store()
    await store.open()
    try:
        invocations = {
            row.id: await _there(store.invocation(row.id)) for row in await _all(store.invocations)
        }
        awakeables = {row.id: await _there(store.awakeable(row.id)) for row in await _all(store.awakeables)}
        journals = await _journals(store, list(invocations))
        positions = {row.partition: row.next for row in await store.positions(world.completions)}
        unsent = [await _all(partial(store.queued_effects, state=state)) for state in EFFECT_STATES]
        letters = [await _there(store.dead_letter(row.id)) for row in await _all(store.dead_letters)]
        queues = [await store.queues(name, PAGE) for name in ("accounts", "histories")]
        booked = await _lists(store, "accounts", "booked")
        added = await _lists(store, "histories", "added")
        stages = await _lists(store, "approvals", "stages")
        pauses = [row.target for row in await store.pauses()]
        next_ticks = {listed.row.name: listed.row.next_ms for listed in await store.schedules()}
        read = {
            name: {row.partition: row.next for row in await store.positions(world.events, name)}
            for name in SUBSCRIPTIONS
        }
    finally:
        await store.close()
    versions: dict[str, list[int]] = {}
    for invocation_id, version in await world.books.rows("SELECT invocation_id, version FROM journal"):
        versions.setdefault(invocation_id, []).append(version)
    return Evidence(
        invocations=invocations,
        journals=journals,
        awakeables=awakeables,
        versions={key: sorted(found) for key, found in versions.items()},
        positions=positions,
        ends=await ends_of(world.bootstrap, world.completions, PARTITIONS),
        unsent=sum(map(len, unsent)),
        dead_letters=letters,
        answers=await everything_in(world.bootstrap, [world.completions], PARTITIONS),
        tasks=await everything_in(world.bootstrap, world.task_topics, PARTITIONS),
        ledger=world.ledger.lines(),
        calls=calls,
        booked=booked,
        queues=sum(map(len, queues)),
        produced=produced,
        records=await everything_in(world.bootstrap, [world.events], PARTITIONS),
        read=read,
        record_ends=await ends_of(world.bootstrap, world.events, PARTITIONS),
        copies=await everything_in(world.bootstrap, [world.dead_letters], 1),
        added=added,
        next_tick_ms=next_ticks.get(TICKS),
        stages=stages,
        acts=acts,
        pauses=pauses,
        harms=harms,
        outages=world.logged(FUNCTION_DOWN),
    )


async def _all(pages: Callable[[Page], Awaitable[Sequence[Row]]]) -> list[Row]:
    """Every row of a list, page by page."""
    found: list[Row] = []
    while some := await pages(Page(limit=PAGE, before=found[-1].id if found else None)):
        found += some
    return found


async def _journals(store: Store, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
    journals: dict[str, list[Entry]] = {}
    for first in range(0, len(invocation_ids), PAGE):
        journals |= await store.history(invocation_ids[first : first + PAGE])
    return journals


async def _lists(store: Store, service: str, name: str) -> dict[str, list[str]]:
    """The list in the state of each key."""
    found: dict[str, list[str]] = {}
    after = b""
    while keys := await store.keys_with_state(service, PAGE, after):
        for key in keys:
            value = await _there(store.state((service, key), name))
            found[key.decode()] = json.loads(as_resolution(value).content)
        after = keys[-1]
    return found


async def _there(reading: Awaitable[T | None]) -> T:
    found = await reading
    assert found is not None
    return found
