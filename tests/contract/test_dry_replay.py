"""A dry replay is counted as a start while it runs (hard case 11)."""

from __future__ import annotations

from awakeables.core.commands import ReplayDry
from awakeables.core.invocations import SUSPECT_STARTS
from awakeables.core.replies import DryReplayed
from contract.driver import Driver


async def replay_dry(driver: Driver, invocation_id: str, *, ends: bool) -> int | None:
    """The starts that are counted now; None: it is not to be replayed."""
    told = await driver.do(DryReplayed, ReplayDry(invocation_id=invocation_id, ends=ends))
    if told.invocation is not None:
        assert told.invocation == await driver.invocation(invocation_id)
    return None if told.invocation is None else told.invocation.starts


async def test_a_dry_replay_counts_a_start_and_takes_it_back(driver: Driver) -> None:
    row = await driver.begin()
    assert await replay_dry(driver, row.id, ends=False) == 1
    assert await replay_dry(driver, row.id, ends=True) == 0
    assert await replay_dry(driver, row.id, ends=True) == 0


async def test_what_may_kill_its_process_is_not_replayed_dry(driver: Driver) -> None:
    row = await driver.begin()
    for started in range(SUSPECT_STARTS):
        assert await replay_dry(driver, row.id, ends=False) == started + 1
    assert await replay_dry(driver, row.id, ends=False) is None
    assert (await driver.invocation(row.id)).starts == SUSPECT_STARTS


async def test_what_has_ended_or_was_never_begun_is_not_replayed_dry(driver: Driver) -> None:
    row = await driver.end(await driver.begin(owner="me"))
    assert await replay_dry(driver, row.id, ends=False) is None
    assert await replay_dry(driver, driver.id("inv"), ends=False) is None
    assert await replay_dry(driver, driver.id("inv"), ends=True) is None


async def test_a_commit_of_the_owner_forgets_the_starts_and_the_end_takes_nothing_back(
    driver: Driver,
) -> None:
    row = await driver.begin(owner="me")
    assert await replay_dry(driver, row.id, ends=False) == 2
    await driver.store.commit([driver.an_advance(row)])
    assert await replay_dry(driver, row.id, ends=True) == 0
