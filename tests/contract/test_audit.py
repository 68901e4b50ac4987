"""`awakeables verify`: a healthy store is found healthy, and each invariant that is broken is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from awakeables.core.awakeables import VerdictEntry, VerdictHistory
from awakeables.core.commands import Idempotency, MarkRefused, NewAwakeable, PartitionFence, Settle
from awakeables.core.invariants.findings import INVARIANTS, Findings
from awakeables.core.invocations import End, Suspend
from awakeables.core.journal import (
    AwakeableCreated,
    CancellationRaised,
    Entry,
    OutcomeDelivered,
    RunRequested,
    encode_chunk,
)
from awakeables.core.outcomes import Rejection, Resolution, encode_outcome
from awakeables.core.replies import Advanced, Begun, SettledAll
from awakeables.core.rows import PLACES
from awakeables.doctor.verification import verify
from awakeables.ports import Store
from awakeables.store.memory import MemoryStore
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import DLQ, RETENTION_MS, TOPIC, Driver, FakeClock, resolved
from contract.vandal import MemoryVandal, PostgresVandal, SqliteVandal, Vandal

pytestmark = pytest.mark.impossible_rows


@pytest.fixture
def vandal(store: Store, clock: FakeClock, request: pytest.FixtureRequest) -> Vandal:
    if isinstance(store, MemoryStore):
        return MemoryVandal(store.tables, clock)
    if isinstance(store, SqliteStore):
        path = request.getfixturevalue("tmp_path") / "shop.db"
        return SqliteVandal(path, clock, store._sealing.codec)
    assert isinstance(store, PostgresStore)
    url = request.getfixturevalue("shared_database")
    return PostgresVandal(url, clock, store._writer._database._sealing.codec)


class Healthy(msgspec.Struct):
    """The IDs of a store in which there is something of each kind."""

    waits: str = ""
    awaited: str = ""
    ended: str = ""
    settled: str = ""
    due: str = ""
    refused: str = ""
    rejected: str = ""
    event: str = ""
    letter: str = ""


def first(driver: Driver, *entries: Entry) -> bytes:
    return encode_chunk([driver.an_input(), *entries])


@pytest.fixture
async def healthy(driver: Driver) -> Healthy:
    """Each invocation has one chunk, so that its journal can be replaced."""
    there = Healthy()
    order = driver.a_begin(
        owner="me", first=True, idempotency=Idempotency(scope="s", key="k", fingerprint="f")
    )
    assert order.first is not None
    there.waits, there.awaited = order.id, order.first.awakeables[0].id
    await driver.do(Begun, order)
    there.due = (await driver.begin()).id
    row, (there.settled,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    there.ended = row.id
    await driver.settle(resolved(there.settled))
    answer = (await driver.awakeable(there.settled)).outcome
    assert answer is not None
    chunk = encode_chunk([OutcomeDelivered(of=1, outcome=answer)])
    await driver.do(Advanced, driver.an_advance(row, End(result=Resolution.of_json(b"1")), chunk=chunk))
    row, (there.rejected,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    task, event = driver.an_effect(row.id, task_for=there.rejected), driver.an_effect(row.id)
    there.refused, there.event = task.event_id, event.event_id
    await driver.do(
        Advanced,
        driver.an_advance(row, Suspend(wake=0), effects=[task, event, driver.an_effect(row.id)], chunk=None),
    )
    await driver.store.commit([MarkRefused(event_id=task.event_id, reason="too large")])
    (epoch,) = await driver.take(0)
    letter = driver.a_letter(offset=3)
    there.letter = letter.id
    fence = PartitionFence(topic=TOPIC, partition=0, epoch=epoch, first=3, next=4, owner="me")
    await driver.do(SettledAll, Settle(completions=(), fence=fence, dead_letters=(letter,), relay_to=DLQ))
    return there


async def verified(vandal: Vandal) -> Findings:
    return await verify(vandal.audit, retention_ms=RETENTION_MS)


async def test_a_healthy_store_violates_nothing_and_everything_was_looked_at(
    healthy: Healthy, vandal: Vandal
) -> None:
    findings = await verified(vandal)
    assert [str(violation) for violation in findings.violations] == []
    assert findings.rows == {
        "invocations": 4,
        "journal chunks": 7,
        "awakeables": 3,
        "idempotency keys": 1,
        "records to publish": 5,
        "dead letters": 1,
        "positions": 1,
    }
    unseen = {each.number for each in INVARIANTS if not findings.looked_at[each.number]}
    assert unseen == {"J3"}, "it has no run"


async def test_an_empty_store_violates_nothing(vandal: Vandal) -> None:
    findings = await verified(vandal)
    assert not findings.counts
    assert not findings.rows.total()


def history(*kinds: str, source: str = "t:0:1", **counts: int) -> bytes:
    entries = tuple(VerdictEntry(kind=kind, source=source, at_ms=1) for kind in kinds)  # type: ignore[arg-type]
    return msgspec.json.encode(VerdictHistory(counts=counts, first=entries))


NO = encode_outcome(Rejection(reason="no"))
ONE = encode_outcome(Resolution.of_json(b"1"))
DAMAGES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("A1", "awakeables", "awaited", {"state": "resolved"}),
    ("A1", "awakeables", "awaited", {"outcome": ONE}),
    ("A1", "awakeables", "settled", {"settled_ms": None}),
    ("A1", "awakeables", "settled", {"settled_by": None}),
    ("A1", "awakeables", "settled", {"outcome": NO}),
    ("A1", "awakeables", "settled", {"outcome": b"{"}),
    ("A2", "awakeables", "settled", {"book": None}),
    ("A2", "awakeables", "settled", {"book": history("accepted", accepted=2)}),
    ("A2", "awakeables", "settled", {"book": history("accepted", source="t:0:2", accepted=1)}),
    ("A2", "awakeables", "awaited", {"book": history("late", late=1)}),
    ("A4", "awakeables", "settled", {"codec": "bytes"}),
    ("J1", "invocations", "due", {"version": 2}),
    ("J1", "invocations", "due", {"versions": b'{"handler":2}'}),
    ("J1", "journal", "due", {"version": 2}),
    ("J1", "journal", "due", {"chunk": b'[{"k":"telepathy"}]'}),
    ("J1", "journal", "due", {"chunk": b"[]"}),
    ("J2", "awakeables", "settled", {"outcome": ONE}),
    ("K1", "offsets", "", {"epoch": 0}),
    ("K1", "offsets", "", {"next": -1}),
    ("K2", "dead_letters", "letter", {"count": 0}),
    ("K2", "dead_letters", "letter", {"last_offset": 2}),
    ("K2", "dead_letters", "letter", {"offset": 4}),
    ("K3", "outbox", "event", {"position": 9 << PLACES}),
    ("K3", "outbox", "event", {"state": "failed"}),
    ("K3", "outbox", "event", {"kind": "task"}),
    ("K3", "outbox", "event", {"position": 2 << PLACES | 2}),
    ("O1", "invocations", "due", {"owner": "me"}),
    ("O1", "invocations", "due", {"status": "running", "due_ms": None}),
    ("O3", "invocations", "due", {"due_ms": None}),
    ("O3", "invocations", "due", {"status": "suspended", "due_ms": None}),
    ("O3", "invocations", "due", {"status": "paused", "due_ms": None}),
    ("O3", "invocations", "ended", {"result": None}),
    ("O3", "invocations", "ended", {"ended_ms": None}),
    ("case 1", "invocations", "ended", {"wake": 0}),
    ("case 4", "invocations", "waits", {"status": "completed", "result": ONE, "ended_ms": 1}),
    ("case 9", "awakeables", "rejected", {"state": "pending"}),
]


@pytest.mark.parametrize(("number", "table", "whose", "columns"), DAMAGES)
async def test_a_row_that_was_changed_by_hand_is_named_with_what_it_violates(
    healthy: Healthy, vandal: Vandal, number: str, table: str, whose: str, columns: dict[str, Any]
) -> None:
    await vandal.change(table, getattr(healthy, whose) if whose else TOPIC, **columns)
    violated = [
        violation for violation in (await verified(vandal)).violations if violation.invariant == number
    ]
    assert violated, f"{number} is not reported"


@pytest.mark.parametrize(
    ("number", "table", "whose"),
    [
        ("A3", "awakeables", "awaited"),
        ("A4", "schemas", "h1"),
        ("J1", "journal", "due"),
        ("case 8", "invocations", "waits"),
        ("case 8", "invocations", "due"),
        ("K3", "invocations", "waits"),
    ],
)
async def test_a_row_that_was_deleted_by_hand_is_missed(
    healthy: Healthy, vandal: Vandal, number: str, table: str, whose: str
) -> None:
    await vandal.delete(table, getattr(healthy, whose, whose))
    assert (await verified(vandal)).counts[number]


def delivered_twice(healthy: Healthy) -> list[Entry]:
    return [
        AwakeableCreated(id=healthy.awaited),
        *[OutcomeDelivered(of=1, outcome=Resolution.of_json(b"1"))] * 2,
    ]


JOURNALS: dict[str, Callable[[Healthy], list[Entry]]] = {
    "A3": lambda _: [],
    "J2": delivered_twice,
    "J3": lambda healthy: [
        AwakeableCreated(id=healthy.awaited),
        RunRequested(name="pay"),
        *[OutcomeDelivered(of=2, outcome=Resolution.of_json(b"1"))] * 2,
    ],
    "case 12": lambda healthy: [AwakeableCreated(id=healthy.awaited), CancellationRaised(reason="r")],
}


@pytest.mark.parametrize("number", JOURNALS)
async def test_a_journal_that_says_otherwise_than_the_rows_is_named(
    healthy: Healthy, vandal: Vandal, driver: Driver, number: str
) -> None:
    await vandal.change("journal", healthy.waits, chunk=first(driver, *JOURNALS[number](healthy)))
    violations = (await verified(vandal)).violations
    assert {violation.invariant for violation in violations} >= {number}
    assert {violation.id for violation in violations} <= {healthy.waits, healthy.awaited}


async def test_every_invariant_is_broken_by_one_of_these_tests() -> None:
    broken = {number for number, *_ in DAMAGES} | set(JOURNALS) | {"case 8"}
    assert broken == {each.number for each in INVARIANTS}


async def test_what_may_have_been_deleted_after_its_retention_is_not_missed(
    healthy: Healthy, vandal: Vandal, driver: Driver
) -> None:
    """Records that were not published for so long outlive what they are of."""
    await vandal.delete("idempotency", healthy.waits)
    await vandal.delete("journal", healthy.waits)
    await vandal.delete("awakeables", healthy.awaited)
    await vandal.delete("invocations", healthy.waits)
    assert set((await verified(vandal)).counts) == {"A3", "K3"}
    driver.clock.ms += RETENTION_MS + 1
    assert not (await verified(vandal)).counts


async def test_it_reads_one_instant_while_the_store_is_written(driver: Driver, vandal: Vandal) -> None:
    await driver.waiting()

    async def work(snapshot: Any) -> list[str]:
        await driver.waiting()
        return [row.id async for page in snapshot.invocations() for row in page]

    assert len(await vandal.audit.look(work)) == 1
    assert (await verified(vandal)).rows["invocations"] == 2


async def test_the_first_violations_are_named_and_all_counted(driver: Driver, vandal: Vandal) -> None:
    for _ in range(25):
        row = await driver.begin()
        await vandal.change("invocations", row.id, due_ms=None)
    findings = await verified(vandal)
    assert findings.counts == {"O3": 25}
    assert len(findings.violations) == 20
