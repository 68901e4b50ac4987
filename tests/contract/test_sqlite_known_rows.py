"""What SQLite's writer knows without reading it, and what it does when it knows wrongly."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from awakeables.core.commands import MarkPublished, NewAwakeable, PartitionFence, Settle
from awakeables.core.invocations import End, Suspend
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import Acknowledged, Advanced, Begun, Fenced, SettledAll
from awakeables.errors import StoreUnavailable
from awakeables.store.sqlite import group
from awakeables.store.sqlite import store as module
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, TOPIC, Driver, FakeClock, resolved


class Watched(SqliteStore):
    """Notes which commits were decided a second time."""

    def __init__(self, path: Path, **kwargs: Any) -> None:
        super().__init__(path, **kwargs)
        self.path = path
        self.decided: list[bool] = []

    def _decide(self, *args: Any, one_by_one: bool = False) -> Any:
        self.decided.append(one_by_one)
        return super()._decide(*args, one_by_one=one_by_one)

    def write_behind_its_back(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path)) as other, other:
            assert other.execute(statement, values).rowcount == 1


@pytest.fixture
async def watched(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Watched]:
    store = Watched(tmp_path / "shop.db", clock=clock, retention_ms=RETENTION_MS)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def driver(watched: Watched, clock: FakeClock) -> Driver:
    return Driver(watched, clock)


async def test_a_whole_cycle_reads_no_row_and_no_commit_is_decided_twice(
    watched: Watched, driver: Driver
) -> None:
    await driver.take(0)
    asked: list[str] = []
    await watched._writer.run(sqlite3.Connection.set_trace_callback, asked.append)
    begin = driver.a_begin(owner="me")
    await driver.do(Begun, begin)
    row = await driver.invocation(begin.id)
    awakeable = NewAwakeable(id=driver.id("prom"))
    effect = driver.an_effect(row.id, task_for=awakeable.id)
    row = (
        await driver.do(Advanced, driver.an_advance(row, awakeables=[awakeable], effects=[effect]))
    ).invocation
    await driver.do(Acknowledged, MarkPublished(event_ids=(effect.event_id,)))
    fence = PartitionFence(topic=TOPIC, partition=0, epoch=1, first=0, next=1, owner="me")
    await driver.do(SettledAll, Settle(completions=(resolved(awakeable.id),), fence=fence))
    await driver.do(Advanced, driver.an_advance(row, End(result=Resolution.of_json(b"1"))))
    assert [statement for statement in asked if "SELECT" in statement] == []
    assert not any(watched.decided)


async def test_a_row_that_has_moved_is_read_and_decided_on_as_it_is(watched: Watched, driver: Driver) -> None:
    row = await driver.begin(owner="me")
    watched.write_behind_its_back("UPDATE invocations SET wake = 7 WHERE id = ?", row.id)
    assert (await driver.advance(row)).wake == 7
    row = await driver.invocation(row.id)
    watched.write_behind_its_back("UPDATE invocations SET epoch = 9 WHERE id = ?", row.id)
    others = [driver.a_begin(owner="me") for _ in range(3)]
    answers = await watched.commit([*others, driver.an_advance(row)])
    assert [type(answer) for answer in answers] == [Begun, Begun, Begun, Fenced]


async def test_what_is_decided_again_leaves_nothing_to_be_decided_again(
    watched: Watched, driver: Driver
) -> None:
    rows = [await driver.begin(owner="me") for _ in range(3)]
    watched.write_behind_its_back("UPDATE invocations SET wake = 7 WHERE id = ?", rows[0].id)
    watched.decided.clear()
    for _ in range(3):
        answers = await watched.commit([driver.an_advance(row) for row in rows])
        rows = [answer.invocation for answer in answers if isinstance(answer, Advanced)]
    assert watched.decided == [False, True, False, False]
    assert [row.version for row in rows] == [4, 4, 4]
    assert (await watched.counts())["invocations_running"] == 3


async def test_a_partition_that_another_has_taken_fences_the_batch(watched: Watched, driver: Driver) -> None:
    await driver.take(0)
    watched.write_behind_its_back("UPDATE offsets SET epoch = 2")
    _, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    fence = PartitionFence(topic=TOPIC, partition=0, epoch=1, first=0, next=1, owner="me")
    await driver.do(Fenced, Settle(completions=(resolved(awakeable_id),), fence=fence))
    assert (await driver.awakeable(awakeable_id)).state == "pending"


async def test_an_outcome_that_another_has_written_is_kept(watched: Watched, driver: Driver) -> None:
    _, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    watched.write_behind_its_back(
        "UPDATE awakeables SET state = 'resolved', outcome = ?, settled_by = 'x' WHERE id = ?",
        b'{"status":"resolved","value":1}',
        awakeable_id,
    )
    verdict = await driver.verdict(resolved(awakeable_id, b"2"))
    assert (verdict.kind, verdict.outcome) == ("conflict", Resolution.of_json(b"1"))


async def test_suspending_and_waking_in_one_group_is_right_at_once(watched: Watched, driver: Driver) -> None:
    """Each row is written once, as it is after the last of them."""
    row, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    await watched.commit(
        [driver.an_advance(row, Suspend(wake=0)), Settle(completions=(resolved(awakeable_id),))]
    )
    assert (await driver.invocation(row.id)).status == "pending"
    assert not any(watched.decided)


async def test_what_was_taken_for_new_and_is_there_is_found(watched: Watched, driver: Driver) -> None:
    order = driver.a_begin(owner="me", first=True)
    first = await driver.do(Begun, order)
    await watched.close()
    await watched.open()
    watched.decided.clear()
    assert await driver.do(Begun, order) == first
    assert watched.decided == [False, True]


async def test_a_commit_that_fails_leaves_nothing_known(
    watched: Watched, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await driver.begin(owner="me")
    with monkeypatch.context() as patch:
        patch.setattr(module, "QUERIES", dict(QUERIES) | {"commit": "COMMIT to nothing"})
        with pytest.raises(StoreUnavailable):
            await driver.advance(row)
    assert not watched._known.rows.invocations
    assert (await driver.advance(row)).version == 2


async def test_how_much_is_known_is_bounded(
    watched: Watched, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "MAX_CACHED_ROWS", 8)
    rows = [await driver.begin(owner="me") for _ in range(50)]
    assert len(watched._known.rows.invocations) <= 8
    for row in rows:
        await driver.end(await driver.advance(row))
    assert not watched._known.rows.invocations
    assert not watched._known.rows.awakeables
