"""Group commit: together, in order, each member all or nothing (hard cases 2 and 3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from awakeables.core.commands import Begin, Claim, Expire, MarkPublished, Probe
from awakeables.core.replies import Begun, Claimed
from awakeables.engine.committer import GATHER_S, Committer
from awakeables.errors import Overloaded, StoreRefused, StoreUnavailable
from awakeables.testing.bench import FragileStore
from awakeables.testing.loop import VirtualClock


@asynccontextmanager
async def committing(**bounds: Any) -> AsyncIterator[tuple[Committer, FragileStore]]:
    store = FragileStore(clock=VirtualClock(asyncio.get_running_loop()))
    committer = Committer(store, **bounds)
    running = asyncio.ensure_future(committer.run())
    try:
        yield committer, store
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def begin(number: int) -> Begin:
    return Begin(id=f"i{number:04}", service="s", handler="h", chunk=b"[]")


def begun(number: int) -> Begun:
    return Begun(id=f"i{number:04}", created=True)


async def test_what_is_asked_for_in_one_turn_of_the_loop_is_one_commit() -> None:
    async with committing() as (committer, store):
        answers = await asyncio.gather(*[committer.submit(begin(n)) for n in range(50)])
        assert answers == [begun(n) for n in range(50)]
        assert store.commits == [[begin(n) for n in range(50)]]


async def test_what_comes_while_a_commit_is_under_way_is_the_next_one() -> None:
    async with committing() as (committer, store):
        store.gate.clear()
        first = committer.submit(begin(0))
        await asyncio.sleep(0.01)
        rest = [committer.submit(begin(n)) for n in range(1, 4)]
        store.gate.set()
        await asyncio.gather(first, *rest)
        assert store.commits == [[begin(0)], [begin(1), begin(2), begin(3)]]


async def test_a_group_that_the_store_can_t_commit_in_time_is_committed_by_halves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with committing() as (committer, store):
        commit = FragileStore.commit

        async def slow(self: FragileStore, commands: Any) -> Any:
            if len(commands) > 13:
                raise StoreUnavailable("canceling statement due to statement timeout")
            return await commit(self, commands)

        monkeypatch.setattr(FragileStore, "commit", slow)
        answers = await asyncio.gather(*[committer.submit(begin(n)) for n in range(50)])
        assert answers == [begun(n) for n in range(50)]
        told = [member for group in store.commits for member in group if isinstance(member, Begin)]
        assert told == [begin(n) for n in range(50)], "in their order"
        assert len(store.commits) == 4


async def test_under_load_a_group_waits_a_moment_for_company() -> None:
    async with committing() as (committer, store):
        await asyncio.gather(*[committer.submit(begin(n)) for n in range(20)])
        first = committer.submit(begin(20))
        await asyncio.sleep(GATHER_S / 2)
        await asyncio.gather(first, *[committer.submit(begin(n)) for n in range(21, 24)])
        assert [len(group) for group in store.commits] == [20, 4]
        alone = committer.submit(begin(24))
        await asyncio.sleep(GATHER_S / 2)
        assert alone.done(), "the group before had too few for a busy time"


async def test_a_group_that_is_large_enough_waits_for_nobody() -> None:
    async with committing() as (committer, _store):
        await asyncio.gather(*[committer.submit(begin(n)) for n in range(20)])
        group = [committer.submit(begin(n)) for n in range(20, 30)]
        await asyncio.sleep(GATHER_S / 2)
        assert all(each.done() for each in group)


async def test_a_group_is_bounded_and_order_is_kept() -> None:
    async with committing(max_members=3) as (committer, store):
        await asyncio.gather(*[committer.submit(begin(n)) for n in range(8)])
        assert [len(group) for group in store.commits] == [3, 3, 2]
        assert [m for group in store.commits for m in group] == [begin(n) for n in range(8)]


@pytest.mark.parametrize("guilty", [{0}, {7}, {3, 4}, {0, 2, 4, 6}, set(range(8))], ids=str)
async def test_a_member_that_the_store_refuses_is_found_and_the_others_commit(guilty: set[int]) -> None:
    """Hard case 2: bisect."""
    async with committing() as (committer, store):
        store.refuses = lambda member: isinstance(member, Begin) and int(member.id[1:]) in guilty
        futures = [committer.submit(begin(n)) for n in range(8)]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert [isinstance(answer, StoreRefused) for answer in answers] == [n in guilty for n in range(8)]
        assert set(store.tables.invocations) == {f"i{n:04}" for n in range(8) if n not in guilty}
        assert [m.id for m in store.members(Begin)] == sorted(store.tables.invocations)


async def test_an_unexpected_error_fails_only_the_member_that_raised_it() -> None:
    async with committing() as (committer, store):

        def odd(member: Any) -> bool:
            if getattr(member, "id", "") == "i0001":
                raise ZeroDivisionError("a bug")
            return False

        store.refuses = odd
        answers = await asyncio.gather(
            *[committer.submit(begin(n)) for n in range(3)], return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [Begun, ZeroDivisionError, Begun]


async def test_while_the_store_is_down_the_group_is_kept_and_sent_again() -> None:
    problems: list[str | None] = []
    async with committing(on_store=problems.append) as (committer, store):
        store.lose_before = 2
        answers = await asyncio.gather(*[committer.submit(begin(n)) for n in range(3)])
        assert answers == [begun(n) for n in range(3)]
        assert store.tries == 3
        assert problems == ["lost before the commit", None]


async def test_pauses_while_the_store_is_down_grow_to_two_seconds() -> None:
    async with committing() as (committer, store):
        store.lose_before = 12
        began = asyncio.get_running_loop().time()
        await committer.submit(begin(0))
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.05 * (2**6 - 1) + 2 * 6)


async def test_a_lost_acknowledgement_is_answered_as_the_first_time() -> None:
    """Hard case 3."""
    async with committing() as (committer, store):
        store.lose_after = 2
        answers = await asyncio.gather(*[committer.submit(begin(n)) for n in range(3)])
        assert answers == [begun(n) for n in range(3)]
        assert len(store.tables.invocations) == 3


async def test_a_refusal_after_an_outage_still_fails_no_other() -> None:
    async with committing() as (committer, store):
        store.lose_before = 1
        store.lose_after = 2
        store.refuses = lambda member: getattr(member, "id", "") == "i0001"
        answers = await asyncio.gather(
            *[committer.submit(begin(n)) for n in range(4)], return_exceptions=True
        )
        assert [isinstance(answer, StoreRefused) for answer in answers] == [False, True, False, False]


async def test_a_full_queue_keeps_new_work_out_and_never_refuses_work_that_was_begun() -> None:
    async with committing(max_waiting=2) as (committer, store):
        store.gate.clear()
        committer.refuse_if_full()
        first = [committer.submit(begin(n)) for n in range(2)]
        with pytest.raises(Overloaded, match="2 writes wait for the store"):
            committer.refuse_if_full()
        begun_work = committer.submit(begin(2))
        store.gate.set()
        await asyncio.gather(*first)
        committer.refuse_if_full()
        assert await begun_work == begun(2)


async def test_a_member_whose_caller_gave_up_is_not_written() -> None:
    async with committing() as (committer, store):
        kept, dropped = committer.submit(begin(0)), committer.submit(begin(1))
        dropped.cancel()
        await kept
        assert store.commits == [[begin(0)]]
        only = committer.submit(begin(2))
        only.cancel()
        await committer.drained()
        assert len(store.commits) == 1


async def test_a_caller_that_gives_up_during_the_commit_affects_no_other() -> None:
    async with committing() as (committer, store):
        store.gate.clear()
        one, other = committer.submit(begin(0)), committer.submit(begin(1))
        await asyncio.sleep(0.01)
        one.cancel()
        store.gate.set()
        assert await other == begun(1)
        assert set(store.tables.invocations) == {"i0000", "i0001"}


async def test_a_caller_that_gives_up_while_the_store_is_down_is_dropped_from_the_group() -> None:
    async with committing() as (committer, store):
        store.lose_before = 2
        one, other = committer.submit(begin(0)), committer.submit(begin(1))
        await asyncio.sleep(0.01)
        one.cancel()
        assert await other == begun(1)
        assert set(store.tables.invocations) == {"i0001"}


@pytest.mark.parametrize("attempts", [1, 8])
async def test_case_o1_a_full_disk_is_reported_until_something_was_written(attempts: int) -> None:
    """Callers that give up, and looks at the rows that find nothing to write, are no success."""
    problems: list[str | None] = []
    async with committing(on_store=problems.append) as (committer, store):
        store.full = True
        for number in range(attempts):
            caller = committer.submit(begin(number))
            for _ in range(10):
                committer.submit(Expire(limit=1))
                await asyncio.sleep(1)
                assert problems == ["the disk is full"]
            caller.cancel()
            await asyncio.sleep(5)
            assert problems == ["the disk is full"]
        store.full = False
        await asyncio.sleep(2)
        assert problems == ["the disk is full", None]
        assert store.tables.invocations == {}
        assert await committer.submit(begin(99)) == begun(99)


async def test_case_o1_a_member_that_is_refused_after_an_outage_says_nothing_about_the_disk() -> None:
    problems: list[str | None] = []
    async with committing(on_store=problems.append) as (committer, store):
        store.lose_before = 1
        store.refuses = lambda _member: True
        with pytest.raises(StoreRefused):
            await committer.submit(begin(0))
        assert problems == ["lost before the commit"]
        store.refuses = lambda _member: False
        await asyncio.sleep(2)
        assert problems == ["lost before the commit", None]


async def test_case_o1_a_commit_that_hangs_is_reported_while_it_does() -> None:
    problems: list[str | None] = []
    async with committing(on_store=problems.append) as (committer, store):
        store.gate.clear()
        caller = committer.submit(Expire(limit=1))
        await asyncio.sleep(9)
        assert problems == []
        await asyncio.sleep(2)
        assert problems == ["a commit has not returned for 10 s"]
        store.gate.set()
        await caller
        await asyncio.sleep(0.01)
        assert problems == ["a commit has not returned for 10 s", None]
        assert store.commits == [[Expire(limit=1)], [Probe()]]


async def test_while_the_store_is_down_and_nobody_waits_the_committer_is_idle() -> None:
    async with committing() as (committer, store):
        store.full = True
        caller = committer.submit(begin(0))
        await asyncio.sleep(1)
        assert not committer.idle
        caller.cancel()
        await committer.drained()
        assert committer.idle


async def test_a_lazy_member_rides_with_the_next_group_or_goes_alone_after_a_moment() -> None:
    async with committing() as (committer, store):
        lazy = committer.submit(MarkPublished(event_ids=("e",)), lazily=True)
        await asyncio.sleep(0.02)
        assert store.commits == []
        await committer.submit(begin(0))
        assert store.commits == [[MarkPublished(event_ids=("e",)), begin(0)]]
        assert lazy.done()
        alone = committer.submit(MarkPublished(event_ids=("f",)), lazily=True)
        await alone
        assert len(store.commits) == 2


async def test_idle_means_that_nothing_is_queued_or_under_way() -> None:
    async with committing() as (committer, store):
        assert committer.idle
        store.gate.clear()
        future = committer.submit(begin(0), lazily=True)
        assert not committer.idle
        await asyncio.sleep(0.1)
        assert not committer.idle
        store.gate.set()
        await committer.drained()
        assert committer.idle
        assert future.done()


async def test_a_reply_of_another_kind_is_a_bug_that_is_reported() -> None:
    async with committing() as (committer, _):
        with pytest.raises(TypeError, match="Begin got the reply Begun"):
            await committer.commit(begin(0), Claimed)
        assert (await committer.commit(Claim(owner="o", limit=1), Claimed)).invocations
