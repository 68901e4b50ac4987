"""The age of the oldest invocation that is next in line for its key."""

from __future__ import annotations

from awakeables.core.commands import Queue
from awakeables.core.invocations import Invocation
from awakeables.ports import QUEUED_OLDEST
from contract.driver import Driver


async def enter(driver: Driver, key: str, service: str = "carts") -> Invocation:
    driver.clock.ms += 1000
    return await driver.begin(service=service, key=key, queue=Queue())


async def oldest_ms(driver: Driver) -> dict[str, int]:
    counts = (await driver.store.counts()).items()
    return {name.removeprefix(QUEUED_OLDEST): at for name, at in counts if name.startswith(QUEUED_OLDEST)}


async def test_the_oldest_that_is_next_in_line_is_found_among_all_keys_of_each_object(driver: Driver) -> None:
    assert await oldest_ms(driver) == {}
    head, _ = [await enter(driver, key) for key in ("b", "a")]
    assert await oldest_ms(driver) == {}
    following = [await enter(driver, "b") for _ in range(2)]
    _, elsewhere = [await enter(driver, "\0", service="shelves") for _ in range(2)]
    in_line = [await enter(driver, "a") for _ in range(3)]
    for first in following:
        assert await oldest_ms(driver) == {"carts": first.created_ms, "shelves": elsewhere.created_ms}
        [head] = [row for row in await driver.claim() if row.key == "b"]
        await driver.end(head)
    assert await oldest_ms(driver) == {"carts": in_line[0].created_ms, "shelves": elsewhere.created_ms}
