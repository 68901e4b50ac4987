"""`GET /versions`: which versions of the code open invocations have."""

from __future__ import annotations

from awakeables.core.versions import Versions, versions_bytes
from awakeables.testing.bench import until
from unit.web.harness import Web


async def test_versions_are_listed_with_the_open_invocations_that_have_them(web: Web) -> None:
    invocation_id = await web.begin("misuse")
    rows = web.store.tables.invocations
    await until(lambda: rows[invocation_id].status == "paused")
    service, handler = rows[invocation_id].service, rows[invocation_id].handler
    rows[invocation_id].versions_json = versions_bytes(Versions(handler=7, markers={"route": 2}))
    items = (await web.client.get("/versions")).json()["items"]
    mine = [item for item in items if (item["service"], item["handler"]) == (service, handler)]
    oldest = mine[1].pop("oldest")
    assert oldest is not None
    same = {"service": service, "handler": handler}
    none = {"marker": None, "marker_version": None}
    assert mine[:2] == [
        {**same, "version": 1, **none, "open": 0, "oldest": None, "state": "current"},
        {**same, "version": 7, **none, "open": 1, "state": "missing"},
    ]
    of_marker = {**same, "version": 7, "marker": "route"}
    assert mine[2:] == [
        {**of_marker, "marker_version": 1, "open": 0, "oldest": None, "state": "unused"},
        {**of_marker, "marker_version": 2, "open": 1, "oldest": oldest, "state": "needed"},
    ]
    shown = (await web.client.get(f"/invocations/{invocation_id}")).json()
    assert shown["version"] == 7
