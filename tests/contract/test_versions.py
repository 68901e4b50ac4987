"""Which versions of the code invocations have: kept in their rows, counted, and compared by claims."""

from __future__ import annotations

from msgspec.structs import replace

from awakeables.core.commands import Begin, Claim, Restart
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Entry, Input, VersionChosen, encode_chunk
from awakeables.core.replies import Advanced, Begun, Claimed, Restarted
from awakeables.core.versions import OpenInvocations, Versions, target
from awakeables.ports import Page
from contract.driver import Driver

SECOND = Versions(handler=2)


def a_begin(driver: Driver, versions: Versions, *, owner: str | None = None) -> Begin:
    """An invocation whose journal begins with these versions."""
    given = replace(driver.an_input(), version=versions.handler)
    return replace(
        driver.a_begin(owner=owner), chunk=encode_chunk([given, *entries(versions)]), versions=versions
    )


def entries(versions: Versions) -> list[Entry]:
    return [VersionChosen(name=name, version=number) for name, number in versions.markers.items()]


async def choose(driver: Driver, row: Invocation, **markers: int) -> Invocation:
    """Commit markers, as the owner of an invocation."""
    chunk = encode_chunk(entries(Versions(markers=markers)))
    command = replace(driver.an_advance(row, chunk=chunk), markers=markers)
    first = (await driver.do(Advanced, command)).invocation
    again = (await driver.do(Advanced, command)).invocation
    assert again == first, "sent again after a lost acknowledgement"
    return first


async def test_a_plain_invocation_names_no_versions(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    row = await driver.advance(row)
    row = await driver.invocation(row.id)
    assert (row.versions_json, row.versions) == (None, Versions())


async def test_the_versions_that_an_invocation_begins_with_are_kept(driver: Driver) -> None:
    versions = Versions(handler=3, markers={"discount": 2})
    begin = a_begin(driver, versions, owner="me")
    await driver.do(Begun, begin)
    assert (await driver.invocation(begin.id)).versions == versions


async def test_markers_are_added_to_what_is_there(driver: Driver) -> None:
    begin = a_begin(driver, SECOND, owner="me")
    await driver.do(Begun, begin)
    row = await choose(driver, await driver.invocation(begin.id), discount=2)
    row = await choose(driver, row, route=1)
    row = await driver.advance(row)
    kept = Versions(handler=2, markers={"discount": 2, "route": 1})
    assert row.versions == kept
    assert (await driver.invocation(row.id)).versions == kept
    (listed,) = await driver.store.invocations(Page())
    assert listed.versions == kept


async def test_what_is_called_has_the_version_that_it_is_called_with(driver: Driver) -> None:
    caller = await driver.begin(owner="me")
    given = Input(service="parcels", handler="pack", seed="5eed", at_ms=1, caller=caller.id, version=2)
    second = replace(driver.a_call(caller), chunk=encode_chunk([given]), versions=SECOND)
    calls = [driver.a_call(caller), second]
    await driver.do(Advanced, driver.an_advance(caller, calls=calls))
    assert [(await driver.invocation(call.id)).versions for call in calls] == [Versions(), SECOND]


async def test_what_is_restarted_has_the_versions_of_what_is_kept(driver: Driver) -> None:
    begin = a_begin(driver, SECOND, owner="me")
    await driver.do(Begun, begin)
    row = await driver.end(await driver.invocation(begin.id))
    command = Restart(
        invocation_id=row.id,
        id=driver.id("inv"),
        chunk=encode_chunk([replace(driver.an_input(), version=4)]),
        version=row.version,
        build="b3",
        versions=Versions(handler=4),
    )
    await driver.do(Restarted, command)
    assert (await driver.invocation(command.id)).versions == Versions(handler=4)
    assert (await driver.invocation(row.id)).versions == SECOND


async def test_open_invocations_are_counted_by_handler_and_versions(driver: Driver) -> None:
    first_ms = driver.clock.ms
    for _ in range(2):
        await driver.begin(owner="me")
        driver.clock.ms += 1
    await driver.end(await driver.begin(owner="me"))
    await driver.begin(service="billing")
    for _ in range(3):
        await driver.do(Begun, a_begin(driver, SECOND))
    found = await driver.store.open_by_versions()
    assert sorted(found, key=lambda each: (each.service, each.versions.handler)) == [
        counted("billing", Versions(), 1, first_ms + 2),
        counted("orders", Versions(), 2, first_ms),
        counted("orders", SECOND, 3, first_ms + 2),
    ]


def counted(service: str, versions: Versions, count: int, oldest_ms: int) -> OpenInvocations:
    return OpenInvocations(
        service=service, handler="fulfil", versions=versions, count=count, oldest_ms=oldest_ms
    )


async def test_a_version_that_only_others_serve_is_left_to_them(driver: Driver) -> None:
    """Hard case 13: version 1 has the handler's name alone."""
    plain, second = driver.a_begin(), a_begin(driver, SECOND)
    marked = a_begin(driver, Versions(markers={"discount": 2}))
    for each in (plain, second, marked):
        await driver.do(Begun, each)

    async def claimed(version: int) -> set[str]:
        left = (target("orders", "fulfil", version),)
        command = Claim(owner="me", limit=10, not_handlers=left)
        return {row.id for row in (await driver.do(Claimed, command)).invocations}

    assert await claimed(1) == {second.id}
    assert await claimed(2) == {plain.id, marked.id}
