"""Instances that share a store: who lives, who takes over what, and whose effects are whose."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from awakeables.core.commands import Claim, TakeOver
from awakeables.core.effects import Effect
from awakeables.core.instances import Instance, newer_builds, served_elsewhere
from awakeables.core.invocations import Invocation, Suspend
from awakeables.core.replies import Advanced, Claimed, Released
from awakeables.ports import Store
from awakeables.store.memory import MemoryStore
from awakeables.store.postgres.store import PostgresStore
from contract.driver import RETENTION_MS, Driver, FakeClock, resolved
from support.real_postgres import EmptyDatabase

TIMEOUT_MS = 10_000


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real_postgres)])
async def shared(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Driver]:
    store: Store
    if request.param == "memory":
        store = MemoryStore(clock=clock, retention_ms=RETENTION_MS, shared=True)
    else:
        emptied: EmptyDatabase = request.getfixturevalue("empty_database")
        store = PostgresStore(await emptied(), clock=clock, retention_ms=RETENTION_MS)
    await store.open()
    yield Driver(store, clock)
    await store.close()


async def unclaim(store: Store, event_id: str) -> None:
    """As if an earlier owner had held the effect."""
    if isinstance(store, MemoryStore):
        store.tables.effects[event_id].claimed_by = ""
    else:
        assert isinstance(store, PostgresStore)
        query = "UPDATE awakeables.outbox SET claimed_by = '' WHERE event_id = $1"
        await store._writer.run(lambda connection: connection.execute(query, event_id))


async def lives(driver: Driver, *ids: str) -> None:
    for instance_id in ids:
        await driver.store.membership.register(Instance(id=instance_id))


async def beats(driver: Driver, instance_id: str) -> set[str] | None:
    beat = await driver.store.membership.beat(instance_id, timeout_ms=TIMEOUT_MS)
    return None if beat is None else {each.id for each in beat.living}


async def queue(driver: Driver, row: Invocation, count: int = 1) -> tuple[Invocation, list[Effect]]:
    effects = [driver.an_effect(row.id) for _ in range(count)]
    return (await driver.do(Advanced, driver.an_advance(row, effects=effects))).invocation, effects


async def test_who_registers_lives_and_is_told_of_the_others(shared: Driver) -> None:
    await lives(shared, "one", "two")
    assert await beats(shared, "one") == {"one", "two"}
    beat = await shared.store.membership.beat("one", timeout_ms=TIMEOUT_MS)
    assert beat is not None
    assert beat.now_ms == shared.clock.ms


async def test_who_sends_no_heartbeat_for_the_time_out_is_dead_for_ever(shared: Driver) -> None:
    await lives(shared, "one", "two")
    shared.clock.ms += TIMEOUT_MS
    assert await beats(shared, "one") == {"one", "two"}
    shared.clock.ms += 1
    assert await beats(shared, "one") == {"one"}
    assert await beats(shared, "two") is None
    assert [each.state for each in await shared.store.membership.instances()] == ["alive", "dead"]
    assert await beats(shared, "two") is None


async def test_who_has_been_dead_for_a_day_is_forgotten(shared: Driver) -> None:
    await lives(shared, "one", "two")
    shared.clock.ms += TIMEOUT_MS + 1
    await beats(shared, "one")
    shared.clock.ms += 86_400_000
    await lives(shared, "three")
    assert {each.id for each in await shared.store.membership.instances()} == {"one", "three"}
    assert await beats(shared, "two") is None


async def test_nobody_declares_itself_dead(shared: Driver) -> None:
    await lives(shared, "one")
    shared.clock.ms += 10 * TIMEOUT_MS
    assert await beats(shared, "one") == {"one"}


async def test_who_never_registered_does_not_live(shared: Driver) -> None:
    assert await beats(shared, "nobody") is None


async def test_what_an_instance_serves_may_change(shared: Driver) -> None:
    await lives(shared, "one", "two")
    await shared.store.membership.serve("one", ["orders/fulfil", "orders/pack@2"])
    await shared.store.membership.serve("nobody", ["orders/fulfil"])
    beat = await shared.store.membership.beat("two", timeout_ms=TIMEOUT_MS)
    assert beat is not None
    served = {each.id: each.handlers for each in beat.living}
    assert served == {"one": ("orders/fulfil", "orders/pack@2"), "two": ()}


async def test_who_leaves_still_lives_until_it_is_gone(shared: Driver) -> None:
    await lives(shared, "one", "two")
    await shared.store.membership.leave("two", gone=False)
    assert await beats(shared, "one") == {"one", "two"}
    assert await beats(shared, "two") == {"one", "two"}
    await shared.store.membership.leave("two", gone=True)
    assert await beats(shared, "one") == {"one"}
    await shared.store.membership.leave("two", gone=True)


async def test_a_build_is_as_old_as_its_first_instance(shared: Driver) -> None:
    membership = shared.store.membership
    await membership.register(Instance(id="one", build="old"))
    shared.clock.ms += 5
    await membership.register(Instance(id="two", build="new"))
    shared.clock.ms += 5
    await membership.register(Instance(id="three", build="old"))
    one, three, two = await membership.instances()
    assert one.build_since_ms == three.build_since_ms < two.build_since_ms
    assert newer_builds(one, (one, two, three)) == ("new",)
    assert newer_builds(two, (one, two, three)) == ()


def test_an_instance_leaves_alone_what_only_others_serve() -> None:
    mine, other = Instance(id="a", handlers=("s/a", "s/b")), Instance(id="b", handlers=("s/b", "s/c"))
    leaving = Instance(id="c", handlers=("s/d",), state="leaving")
    assert served_elsewhere(mine, (mine, other, leaving)) == ("s/c",)


async def test_only_what_nobody_living_owns_is_taken_over(shared: Driver) -> None:
    await lives(shared, "living")
    mine, theirs, orphan = [await shared.begin(owner=owner) for owner in ("me", "living", "dead")]
    assert await shared.do(Released, TakeOver(owner="me")) == Released(count=1)
    status = [(await shared.invocation(row.id)).status for row in (mine, theirs, orphan)]
    assert status == ["running", "running", "pending"]


async def test_a_take_over_is_bounded(driver: Driver) -> None:
    for _ in range(3):
        await driver.begin(owner="dead")
    assert await driver.do(Released, TakeOver(owner="me", limit=2)) == Released(count=2)
    assert await driver.do(Released, TakeOver(owner="me", limit=2)) == Released(count=1)


async def test_the_effects_of_who_lives_are_left_to_it(shared: Driver) -> None:
    await lives(shared, "living", "me")
    await queue(shared, await shared.begin(owner="living"))
    _, orphans = await queue(shared, await shared.begin(owner="dead"), 2)
    assert await shared.claim_effects("me") == orphans
    assert await shared.claim_effects("living") == []


async def test_with_an_invocation_its_unsent_effects_change_their_owner(driver: Driver) -> None:
    await lives(driver, "one")
    row, effects = await queue(driver, await driver.begin(owner="one"), 2)
    await driver.advance(row, Suspend(wake=-1))
    claimed = await driver.do(Claimed, Claim(owner="two", limit=10))
    assert [each.id for each in claimed.invocations] == [row.id]
    assert list(claimed.effect_ids) == [effect.event_id for effect in effects]
    assert await driver.store.effects("two", 10) == effects
    assert await driver.store.effects("one", 10) == []
    assert (await driver.do(Claimed, Claim(owner="two", limit=10))).effect_ids == ()


async def test_a_stream_of_which_who_lives_holds_an_effect_is_left_to_it(shared: Driver) -> None:
    """So that one relay publishes all of it, in order."""
    await lives(shared, "one")
    row, first = await queue(shared, await shared.begin(owner="one"))
    later = shared.an_effect(row.id)
    await shared.store.commit([shared.an_advance(row, effects=[later])])
    await unclaim(shared.store, later.event_id)
    assert await shared.claim_effects("two") == []
    assert await shared.claim_effects("one") == [later]
    assert await shared.store.effects("one", 10) == [*first, later]


async def test_what_a_newer_build_wrote_last_is_left_to_it(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    row = await driver.advance(row, Suspend(wake=-1))
    assert row.build is not None
    claim = Claim(owner="old", limit=10, suspect=True, not_builds=(row.build, "other"))
    assert (await driver.do(Claimed, claim)).invocations == ()
    assert len((await driver.do(Claimed, Claim(owner="new", limit=10, not_builds=("x",)))).invocations) == 1


async def test_what_only_others_serve_is_left_to_them(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    await driver.settle(resolved(awakeable_id))
    name = f"{row.service}/{row.handler}"
    assert (await driver.do(Claimed, Claim(owner="a", limit=10, not_handlers=(name,)))).invocations == ()
    assert len((await driver.do(Claimed, Claim(owner="b", limit=10, not_handlers=("x/y",)))).invocations) == 1
