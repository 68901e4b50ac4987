"""Several processes on one PostgreSQL: what a commit does if rows move between its load and its write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from awakeables.core.commands import (
    Advance,
    Cancel,
    Claim,
    ClaimEffects,
    Command,
    EditState,
    Ended,
    ExpireState,
    Idempotency,
    Kill,
    MarkRefused,
    NewAwakeable,
    PartitionFence,
    PauseInvocation,
    PauseKey,
    Purge,
    Queue,
    Release,
    ReplayDry,
    Resend,
    Restart,
    Resume,
    ResumeKey,
    Settle,
    Skip,
    TakePartitions,
)
from awakeables.core.invocations import Continue, End, Invocation, Suspend
from awakeables.core.journal import encode_chunk
from awakeables.core.objects import StateWrite
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.replies import (
    Advanced,
    Begun,
    Claimed,
    DryReplayed,
    Fenced,
    Reply,
    SettledAll,
    StateExpired,
)
from awakeables.errors import StoreRefused, StoreUnavailable
from awakeables.store.memory import MemoryStore
from awakeables.store.postgres import group, writing
from awakeables.store.postgres.group import OptimisticGroup
from awakeables.store.postgres.store import PostgresStore
from contract.driver import DLQ, RETENTION_MS, TOPIC, Driver, FakeClock, rejected, resolved
from contract.test_differential import rows

pytestmark = pytest.mark.real_postgres


class Pair:
    """Two stores on one database, and a third in memory that does the same one after the other.

    Attributes:
        between: Called before each step of the first store's commits.
    """

    def __init__(self, url: str, clock: FakeClock) -> None:
        self.between: Callable[[str], Awaitable[None]] | None = None
        self.clock = clock
        self.memory = Driver(MemoryStore(clock=clock, retention_ms=RETENTION_MS, shared=True), clock)
        self.one = PostgresStore(url, clock=clock, retention_ms=RETENTION_MS, between=self._step)
        self.two = PostgresStore(url, clock=clock, retention_ms=RETENTION_MS)

    async def _step(self, name: str) -> None:
        if self.between is not None:
            await self.between(name)

    async def both(self, *commands: Command) -> list[Reply]:
        """Commit to memory and to PostgreSQL."""
        expected = await self.memory.store.commit(commands)
        assert await self.one.commit(commands) == expected
        return expected

    async def moved(self, mover: Command, *commands: Command) -> list[Reply]:
        """Commit to PostgreSQL while another process commits `mover` just before the write."""
        moved: list[Reply] = []

        async def move(step: str) -> None:
            if step == "write" and not moved:
                moved.extend(await self.two.commit([mover]))

        self.between = move
        replies = await self.one.commit(commands)
        self.between = None
        assert moved
        assert moved == await self.memory.store.commit([mover])
        return replies

    async def same(self) -> None:
        assert await rows(self.one) == await rows(self.memory.store)


@pytest.fixture
async def pair(postgres_url: str, clock: FakeClock) -> AsyncIterator[Pair]:
    stores = Pair(postgres_url, clock)
    for store in (stores.one, stores.two):
        await store.open()
    yield stores
    for store in (stores.one, stores.two):
        await store.close()


async def running(pair: Pair, *awakeables: str, timeout_ms: int | None = None) -> Invocation:
    """A running invocation with these pending awakeables, in both."""
    begin = pair.memory.a_begin(owner="me")
    await pair.both(begin)
    row = await pair.memory.invocation(begin.id)
    new = [NewAwakeable(id=key, timeout_ms=timeout_ms) for key in awakeables]
    effects = [pair.memory.an_effect(row.id, task_for=key) for key in awakeables]
    (advanced,) = await pair.both(pair.memory.an_advance(row, awakeables=new, effects=effects))
    assert isinstance(advanced, Advanced)
    return advanced.invocation


async def an_invocation(pair: Pair) -> tuple[Command, Command]:
    row = await running(pair)
    return Cancel(invocation_id=row.id), pair.memory.an_advance(row)


async def an_awakeable(pair: Pair) -> tuple[Command, Command]:
    key = pair.memory.id("prom")
    await running(pair, key)
    first = Settle(completions=(rejected(key, source="t:0:7"),))
    return first, Settle(completions=(resolved(key, source="t:0:8"),))


async def a_position(pair: Pair) -> tuple[Command, Command]:
    await pair.both(TakePartitions(owner="me", topic=TOPIC, partitions=(0,)))
    fence = PartitionFence(topic=TOPIC, partition=0, epoch=1, first=0, next=5, owner="me")
    mover = TakePartitions(owner="you", topic=TOPIC, partitions=(0, 1))
    return mover, Settle(completions=(), fence=fence)


async def a_new_position(pair: Pair) -> tuple[Command, Command]:
    mover = TakePartitions(owner="you", topic=TOPIC, partitions=(0, 1))
    return mover, TakePartitions(owner="me", topic=TOPIC, partitions=(0,))


async def an_effect(pair: Pair) -> tuple[Command, Command]:
    await running(pair, pair.memory.id("prom"))
    [queued] = await pair.memory.effects("unsent", 10)
    refused = MarkRefused(event_id=queued.event_id, reason="too large")
    return ClaimEffects(owner="you", limit=10), refused


async def a_dead_letter(pair: Pair) -> tuple[Command, Command]:
    letter = pair.memory.a_letter(offset=3)
    await pair.both(Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
    first, second = (Resend(dead_letter_id=letter.id, event_id=pair.memory.id("evt")) for _ in range(2))
    return first, second


async def a_new_dead_letter(pair: Pair) -> tuple[Command, Command]:
    first, second = (pair.memory.a_letter(offset=3) for _ in range(2))
    return (
        Settle(completions=(), dead_letters=(first,), relay_to=DLQ),
        Settle(completions=(), dead_letters=(second,), relay_to=DLQ),
    )


async def a_key(pair: Pair) -> tuple[Command, Command]:
    key = Idempotency(scope="s", key="k", fingerprint="f")
    return pair.memory.a_begin(idempotency=key), pair.memory.a_begin(idempotency=key)


async def a_wake(pair: Pair) -> tuple[Command, Command]:
    key = pair.memory.id("prom")
    row = await running(pair, key)
    return Settle(completions=(resolved(key),)), pair.memory.an_advance(row, Suspend(wake=row.wake))


async def a_wake_of_a_suspended(pair: Pair) -> tuple[Command, Command]:
    key = pair.memory.id("prom")
    row = await running(pair, key)
    await pair.both(pair.memory.an_advance(row, Suspend(wake=row.wake)))
    return Settle(completions=(resolved(key),)), ReplayDry(invocation_id=row.id, ends=False)


async def a_skipped_partition(pair: Pair) -> tuple[Command, Command]:
    await pair.both(TakePartitions(owner="me", topic=TOPIC, partitions=(0,)))
    fence = PartitionFence(topic=TOPIC, partition=0, epoch=1, first=0, next=5, owner="me")
    letter = pair.memory.a_letter(offset=3)
    skip = Skip(topic=TOPIC, partition=0, before=0, next=9, dead_letter=letter, relay_to=DLQ)
    return Settle(completions=(), fence=fence), skip


async def a_head(pair: Pair, *, behind: int = 0, key: str = "c-7") -> Invocation:
    """The running head of a key, and some behind it, in both."""
    begins = [pair.memory.a_begin(key=key, queue=Queue()) for _ in range(1 + behind)]
    await pair.both(*begins)
    (claimed,) = await pair.both(Claim(owner="me", limit=1))
    assert isinstance(claimed, Claimed)
    return claimed.invocations[0]


async def one_that_is_paused_while_its_owner_suspends_it(pair: Pair) -> tuple[Command, Command]:
    row = await running(pair, pair.memory.id("prom"))
    return PauseInvocation(invocation_id=row.id), pair.memory.an_advance(row, Suspend(wake=row.wake))


async def an_owner_that_suspends_it_while_it_is_paused(pair: Pair) -> tuple[Command, Command]:
    pause, suspend = await one_that_is_paused_while_its_owner_suspends_it(pair)
    return suspend, pause


async def an_owner_that_releases_it_while_it_is_paused(pair: Pair) -> tuple[Command, Command]:
    row = await running(pair)
    return Release(owner="me", ids=(row.id,)), PauseInvocation(invocation_id=row.id)


async def a_wake_of_one_that_is_paused(pair: Pair) -> tuple[Command, Command]:
    key = pair.memory.id("prom")
    row = await running(pair, key)
    await pair.both(pair.memory.an_advance(row, Suspend(wake=row.wake)))
    return Settle(completions=(resolved(key),)), PauseInvocation(invocation_id=row.id)


async def one_that_is_paused_while_it_is_woken(pair: Pair) -> tuple[Command, Command]:
    settle, pause = await a_wake_of_one_that_is_paused(pair)
    return pause, settle


async def one_that_waits_is_paused_while_its_turn_comes(pair: Pair) -> tuple[Command, Command]:
    head = await a_head(pair, behind=1)
    [following] = await pair.memory.store.in_line(("orders", b"c-7"), 2)
    end = pair.memory.an_advance(head, End(result=Resolution.of_json(b"1")))
    return PauseInvocation(invocation_id=following.id), end


async def a_turn_that_comes_while_it_is_paused(pair: Pair) -> tuple[Command, Command]:
    pause, end = await one_that_waits_is_paused_while_its_turn_comes(pair)
    return end, pause


async def a_paused_head(pair: Pair) -> tuple[Invocation, list[Restart]]:
    """It has called another; and two orders that restart it."""
    head = await a_head(pair, behind=1)
    call = pair.memory.a_call(head)
    wait = pair.memory.a_wait(call.id)
    await pair.both(PauseInvocation(invocation_id=head.id))
    (advanced,) = await pair.both(pair.memory.an_advance(head, awakeables=[wait], calls=[call]))
    assert isinstance(advanced, Advanced)
    (advanced,) = await pair.both(pair.memory.an_advance(advanced.invocation, Suspend(wake=0), chunk=None))
    assert isinstance(advanced, Advanced)
    row = advanced.invocation
    assert row.status == "paused"
    chunk = encode_chunk([pair.memory.an_input()])
    restarts = [
        Restart(
            invocation_id=row.id,
            id=pair.memory.id("inv"),
            chunk=chunk,
            version=row.version,
            build="b1",
            by="ann",
        )
        for _ in range(2)
    ]
    return row, restarts


async def one_that_is_restarted_while_it_is_resumed(pair: Pair) -> tuple[Command, Command]:
    row, [restart, _] = await a_paused_head(pair)
    return Resume(invocation_id=row.id), restart


async def one_that_is_resumed_while_it_is_restarted(pair: Pair) -> tuple[Command, Command]:
    resume, restart = await one_that_is_restarted_while_it_is_resumed(pair)
    return restart, resume


async def two_that_restart_the_same(pair: Pair) -> tuple[Command, Command]:
    _, [first, second] = await a_paused_head(pair)
    return first, second


async def a_restart_that_is_committed_twice(pair: Pair) -> tuple[Command, Command]:
    _, [restart, _] = await a_paused_head(pair)
    return restart, restart


async def one_that_comes_while_the_head_is_restarted(pair: Pair) -> tuple[Command, Command]:
    _, [restart, _] = await a_paused_head(pair)
    return pair.memory.a_begin(key="c-7", queue=Queue()), restart


async def two_that_come_to_a_free_key(pair: Pair) -> tuple[Command, Command]:
    first, second = [pair.memory.a_begin(key="c-7", queue=Queue()) for _ in range(2)]
    return first, second


async def two_that_come_to_a_held_key(pair: Pair) -> tuple[Command, Command]:
    await a_head(pair)
    return await two_that_come_to_a_free_key(pair)


async def one_that_comes_while_the_head_ends(pair: Pair) -> tuple[Command, Command]:
    head = await a_head(pair)
    end = pair.memory.an_advance(head, End(result=Resolution.of_json(b"1")))
    return pair.memory.a_begin(key="c-7", queue=Queue()), end


async def a_head_that_ends_while_one_comes(pair: Pair) -> tuple[Command, Command]:
    begin, end = await one_that_comes_while_the_head_ends(pair)
    return end, begin


async def the_next_one_is_cancelled_while_the_head_ends(pair: Pair) -> tuple[Command, Command]:
    head = await a_head(pair, behind=2)
    [following, _] = await pair.memory.store.in_line(("orders", b"c-7"), 2)
    end = pair.memory.an_advance(head, End(result=Resolution.of_json(b"1")))
    return Cancel(invocation_id=following.id), end


async def a_key_is_paused_while_the_head_ends(pair: Pair) -> tuple[Command, Command]:
    head = await a_head(pair, behind=1)
    end = pair.memory.an_advance(head, End(result=Resolution.of_json(b"1")))
    return PauseKey(service="orders", key="c-7"), end


async def a_key_is_resumed_while_its_state_is_edited(pair: Pair) -> tuple[Command, Command]:
    pause = PauseKey(service="orders", key="c-7")
    await pair.both(pause, pair.memory.a_begin(key="c-7", queue=Queue()))
    writes = (StateWrite(name="a", value=b"1"),)
    resume = ResumeKey(service="orders", key="c-7")
    return resume, EditState(service="orders", key="c-7", writes=writes)


async def the_other_half_of_a_circle(pair: Pair) -> tuple[Command, Command]:
    """The heads of two keys, each of which calls the other key."""
    heads = [await a_head(pair, key=key) for key in ("a", "b")]
    orders: list[Command] = []
    for head, key in zip(heads, ("b", "a"), strict=True):
        call = replace(
            pair.memory.a_call(head, object_key=key, queue=Queue(callers=(head.id,))), service="orders"
        )
        wait = pair.memory.a_wait(call.id)
        orders.append(pair.memory.an_advance(head, awakeables=[wait], calls=[call]))
    return orders[0], orders[1]


async def test_o1_of_two_commits_that_close_a_circle_one_is_refused(pair: Pair) -> None:
    mover, command = await the_other_half_of_a_circle(pair)
    (advanced,) = await pair.moved(mover, command)
    assert isinstance(advanced, Advanced)
    [(_, outcome)] = advanced.settled
    assert isinstance(outcome, Rejection)
    assert outcome.code == 409


async def test_o5_what_is_written_while_old_state_is_looked_for_is_kept(pair: Pair) -> None:
    """An invocation that comes between the search and the deletion waits for the latter."""
    await pair.two.commit([pair.memory.a_begin(key="c-7", queue=Queue())])
    await _set_and_end(pair, b"100")
    pair.clock.ms += 1000
    comes: list[asyncio.Task[list[Reply]]] = []

    async def between(step: str) -> None:
        if step == "write" and not comes:
            comes.append(
                asyncio.create_task(pair.two.commit([pair.memory.a_begin(key="c-7", queue=Queue())]))
            )
            await asyncio.wait(comes, timeout=0.1)

    pair.between = between
    expire = ExpireState(service="orders", before_ms=pair.clock.ms, limit=10)
    (expired,) = await pair.one.commit([expire])
    assert expired == StateExpired(count=1, last=None)
    await asyncio.gather(*comes)
    assert await pair.two.state(("orders", b"c-7"), "balance") is None
    await _set_and_end(pair, b"150")
    assert await pair.two.state(("orders", b"c-7"), "balance") == b"150"


async def _set_and_end(pair: Pair, value: bytes) -> None:
    (claimed,) = await pair.two.commit([Claim(owner="me", limit=10)])
    assert isinstance(claimed, Claimed)
    [row] = claimed.invocations
    end, writes = End(result=Resolution.of_json(b"1")), (StateWrite(name="balance", value=value),)
    await pair.two.commit([pair.memory.an_advance(row, end, chunk=None, writes=writes)])


async def test_pg16_a_key_that_others_begin_and_end_at_every_try_is_had_in_the_end(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no row to lock: it is made by each of them, and deleted again."""
    current: list[str] = []
    tasks: list[asyncio.Task[list[Reply]]] = []
    again = OptimisticGroup._again

    async def come() -> list[Reply]:
        begin = pair.memory.a_begin(key="hot", queue=Queue())
        begun = await pair.two.commit([begin])
        current.append(begin.id)
        return begun

    async def between(step: str) -> None:
        if step == "write":
            tasks.append(asyncio.create_task(come()))
            await asyncio.wait(tasks, timeout=0.1)

    async def go(self: OptimisticGroup, *args: Any) -> None:
        while current:
            await pair.two.commit([Kill(invocation_id=current.pop())])
        await again(self, *args)

    monkeypatch.setattr(OptimisticGroup, "_again", go)
    pair.between = between
    (begun,) = await pair.one.commit([pair.memory.a_begin(key="hot", queue=Queue())])
    assert isinstance(begun, Begun)
    await asyncio.gather(*tasks)
    assert len(tasks) > group.OPTIMISTIC_TRIES


@pytest.mark.parametrize(
    "case",
    [
        two_that_come_to_a_free_key,
        two_that_come_to_a_held_key,
        one_that_comes_while_the_head_ends,
        a_head_that_ends_while_one_comes,
        the_next_one_is_cancelled_while_the_head_ends,
        a_key_is_paused_while_the_head_ends,
        a_key_is_resumed_while_its_state_is_edited,
        the_other_half_of_a_circle,
        one_that_is_paused_while_its_owner_suspends_it,
        an_owner_that_suspends_it_while_it_is_paused,
        an_owner_that_releases_it_while_it_is_paused,
        a_wake_of_one_that_is_paused,
        one_that_is_paused_while_it_is_woken,
        one_that_waits_is_paused_while_its_turn_comes,
        a_turn_that_comes_while_it_is_paused,
        one_that_is_restarted_while_it_is_resumed,
        one_that_is_resumed_while_it_is_restarted,
        two_that_restart_the_same,
        a_restart_that_is_committed_twice,
        one_that_comes_while_the_head_is_restarted,
        an_invocation,
        an_awakeable,
        a_position,
        a_new_position,
        an_effect,
        a_dead_letter,
        a_new_dead_letter,
        a_key,
        a_wake,
        a_wake_of_a_suspended,
        a_skipped_partition,
    ],
)
async def test_pg1_a_commit_whose_rows_another_moves_is_decided_again(
    pair: Pair, case: Callable[[Pair], Awaitable[tuple[Command, Command]]]
) -> None:
    mover, command = await case(pair)
    replies = await pair.moved(mover, command)
    assert replies == await pair.memory.store.commit([command])
    await pair.same()


async def test_pg1_an_owner_is_not_disturbed_by_wake_ups(pair: Pair) -> None:
    keys = [pair.memory.id("prom") for _ in range(3)]
    row, loads = await running(pair, *keys), 0

    async def count(step: str) -> None:
        nonlocal loads
        loads += step == "load"
        if step == "write":
            await pair.two.commit([Settle(completions=(resolved(keys.pop()),))])

    for step in (Continue(), End(result=Resolution.of_json(b"1"))):
        pair.between = count
        (advanced,) = await pair.one.commit([pair.memory.an_advance(row, step)])
        pair.between = None
        assert isinstance(advanced, Advanced)
        row = advanced.invocation
    assert loads == 2
    stored = await pair.one.invocation(row.id)
    assert stored is not None
    assert (stored.wake, stored.status) == (2, "completed")


@pytest.mark.parametrize("count", [1, 2])
async def test_pg1_who_finds_no_peace_decides_on_rows_that_are_locked(pair: Pair, count: int) -> None:
    """With another command first in halves, then alone."""
    row, moves = await running(pair), 0
    expected = group.OPTIMISTIC_TRIES * (1 if count == 1 else 2)

    async def move(step: str) -> None:
        nonlocal moves
        if step == "write" and moves < expected:
            moves += 1
            replay = ReplayDry(invocation_id=row.id, ends=moves % 2 == 0)
            [replayed] = await pair.two.commit([replay])
            assert isinstance(replayed, DryReplayed)
            assert replayed.invocation is not None

    pair.between = move
    others = [pair.memory.a_begin() for _ in range(count - 1)]
    replies = await pair.one.commit([pair.memory.an_advance(row), *others])
    assert moves == expected
    assert [type(reply) for reply in replies] == [Advanced, Begun][:count]
    stored = await pair.one.invocation(row.id)
    assert stored is not None
    assert stored.version == row.version + 1


async def test_pg1_what_was_decided_long_ago_is_not_written(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process had been stopped between load and write."""
    tries = []

    async def count(step: str) -> None:
        if step == "write":
            tries.append(writing.GUARD_MS)
            monkeypatch.setattr(writing, "GUARD_MS", 5000 if len(tries) == 3 else -1)

    monkeypatch.setattr(writing, "GUARD_MS", -1)
    pair.between = count
    await pair.one.commit([pair.memory.a_begin()])
    assert tries == [-1, -1, -1]


async def _purged_while_it_is_settled(pair: Pair) -> tuple[str, Command, Command]:
    """An awakeable, what deletes its invocation alone, and what settles it.

    The project's own commands delete both or neither, so this needs one that names the invocation only.
    """
    key = pair.memory.id("prom")
    row = await running(pair, key)
    await pair.both(pair.memory.an_advance(row, End(result=Resolution.of_json(b"1"))))
    purge = Purge(ended=(Ended(id=row.id),), before_ms=pair.clock.ms)
    return key, purge, Settle(completions=(resolved(key),))


async def test_pg3_a_wake_up_that_finds_no_row_never_passes(pair: Pair) -> None:
    key, purge, settle = await _purged_while_it_is_settled(pair)
    with pytest.raises((StoreRefused, AssertionError)):
        await pair.moved(purge, settle)
    stored = await pair.one.awakeable(key)
    assert stored is not None
    assert stored.state == "pending"


async def test_pg3_without_the_count_of_found_rows_a_wake_up_for_nobody_would_pass(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Says that the test above can fail."""
    monkeypatch.setattr(writing, "UNCOUNTED", writing.UNCOUNTED | {"wake_invocations"})
    monkeypatch.setattr(writing, "_statement", writing._statement.__wrapped__)
    key, purge, settle = await _purged_while_it_is_settled(pair)
    (settled,) = await pair.moved(purge, settle)
    assert isinstance(settled, SettledAll)
    stored = await pair.one.awakeable(key)
    assert stored is not None
    assert (stored.state, await pair.one.invocation(stored.invocation_id)) == ("resolved", None)


async def test_pg3_without_the_count_that_it_has_seen_a_step_would_lose_a_wake_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Says that `a_wake` above can fail."""
    changed = writing._changed

    def blind(row: Invocation, before: Invocation, rev: int) -> Any:
        id_, rev, _, *others = changed(row, before, rev)
        return id_, rev, None, *others

    monkeypatch.setattr(writing, "_changed", blind)
    mover, command = await a_wake(pair)
    (advanced,) = await pair.moved(mover, command)
    assert isinstance(advanced, Advanced)
    stored = await pair.one.invocation(advanced.invocation.id)
    assert stored is not None
    assert (stored.status, stored.wake) == ("suspended", 1)


async def test_pg2_an_advance_and_a_settle_of_one_invocation_in_one_group(pair: Pair) -> None:
    keys = [pair.memory.id("prom") for _ in range(2)]
    row = await running(pair, *keys)
    settle = Settle(completions=(resolved(keys[0]), resolved(keys[1], source="t:0:2")))
    await pair.both(pair.memory.an_advance(row), settle)
    await pair.same()


async def test_pg2_two_completions_of_one_invocation_in_two_settles(pair: Pair) -> None:
    keys = [pair.memory.id("prom") for _ in range(3)]
    row = await running(pair, *keys)
    await pair.both(pair.memory.an_advance(row, Suspend(wake=0)))
    first = Settle(completions=(resolved(keys[0]), resolved(keys[1], source="t:0:2")))
    replies = await pair.both(first, Settle(completions=(rejected(keys[2], source="t:0:3"),)))
    wakes = [wake.wake for reply in replies if isinstance(reply, SettledAll) for wake in reply.wakes]
    assert wakes == [1, 2, 3]
    await pair.same()


async def test_pg2_created_settled_and_ended_in_one_group(pair: Pair) -> None:
    begin = pair.memory.a_begin(owner="me")
    key = pair.memory.id("prom")
    common: dict[str, Any] = {"invocation_id": begin.id, "owner": "me", "epoch": 1, "build": "b"}
    first = Advance(**common, version=1, number=1, next=Continue(), awakeables=(NewAwakeable(id=key),))
    end = Advance(**common, version=1, number=2, next=End(result=Resolution.of_json(b"1")))
    await pair.both(begin, first, Settle(completions=(resolved(key),)), end)
    await pair.same()


async def test_pg8_an_epoch_that_is_issued_twice_does_not_let_the_earlier_holder_in(
    pair: Pair, postgres_url: str
) -> None:
    """After a failover that has lost the commit."""
    await pair.one.commit([TakePartitions(owner="me", topic=TOPIC, partitions=(0,))])
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("DELETE FROM awakeables.offsets")
    await connection.close()
    await pair.two.commit([TakePartitions(owner="you", topic=TOPIC, partitions=(0,))])
    fence = PartitionFence(topic=TOPIC, partition=0, epoch=1, first=0, next=5, owner="me")
    assert await pair.one.commit([Settle(completions=(), fence=fence)]) == [Fenced()]


async def test_pg9_what_was_committed_before_the_connection_was_cut_is_sent_again_and_done_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, letter = pair.memory.id("prom"), pair.memory.a_letter(offset=3)
    row = await running(pair, key)
    waiting = pair.memory.a_begin()
    await pair.both(waiting, Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
    commit = OptimisticGroup.commit
    for command in (
        pair.memory.a_begin(
            owner="me", first=True, idempotency=Idempotency(scope="s", key="k", fingerprint="f")
        ),
        pair.memory.an_advance(row, effects=[pair.memory.an_effect(row.id)]),
        Settle(completions=(resolved(key),), verdicts_to="v", verdict_ids=(pair.memory.id("evt"),)),
        Resend(dead_letter_id=letter.id, event_id=pair.memory.id("evt")),
        Claim(owner="me", limit=10),
    ):

        async def cut(self: OptimisticGroup, commands: Any) -> list[Reply]:
            await commit(self, commands)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

        monkeypatch.setattr(OptimisticGroup, "commit", cut)
        with pytest.raises(StoreUnavailable):
            await pair.one.commit([command])
        monkeypatch.setattr(OptimisticGroup, "commit", commit)
        await pair.memory.store.commit([command])
        await pair.both(command)
    await pair.same()
    assert await pair.both(Claim(owner="me", limit=10)) == [Claimed(invocations=())]
