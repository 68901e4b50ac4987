"""The age of the oldest invocation that is next in line for its key."""

from __future__ import annotations

from awakeables.core.commands import Queue
from awakeables.core.invocations import Invocation
from contract.driver import Driver


async def enter(driver: Driver, key: str, service: str = "carts") -> Invocation:
    driver.clock.ms += 1000
    return await driver.begin(service=service, key=key, queue=Queue())


async def oldest_ms(driver: Driver) -> int | None:
    return (await driver.store.counts()).get("queued_oldest_ms")


async def test_the_oldest_that_is_next_in_line_is_found_among_all_keys_and_objects(driver: Driver) -> None:
    assert await oldest_ms(driver) is None
    head, _ = [await enter(driver, key) for key in ("b", "a")]
    assert await oldest_ms(driver) is None
    following = [await enter(driver, "b") for _ in range(2)]
    _, elsewhere = [await enter(driver, "\0", service="shelves") for _ in range(2)]
    for _ in range(3):
        await enter(driver, "a")
    for first in following:
        assert await oldest_ms(driver) == first.created_ms
        [head] = [row for row in await driver.claim() if row.key == "b"]
        await driver.end(head)
    assert await oldest_ms(driver) == elsewhere.created_ms
