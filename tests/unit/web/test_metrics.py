"""`/metrics`, and how requests are counted."""

from __future__ import annotations

import pytest

from unit.web.harness import Exchange, Web, serving


def count(web: Web, method: str, route: str, status: int) -> float | None:
    labels = {"method": method, "route": route, "http_status": str(status)}
    return web.engine.metrics.registry.get_sample_value("awakeables_http_requests_total", labels)


async def test_metrics_are_served_in_the_format_that_is_asked_for() -> None:
    async with serving() as web:
        plain = await web.client.get("/metrics")
        assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "\n# TYPE awakeables_pending gauge\n" in plain.text
        accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        opened = await web.client.get("/metrics", headers=accept)
        assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0;")
        assert opened.text.endswith("# EOF\n")


async def test_metrics_are_served_while_the_store_is_down() -> None:
    async with serving() as web:
        web.store.down = True
        assert (await web.client.get("/metrics")).status_code == 200


async def test_mistakes_of_ours_are_counted_from_0_on() -> None:
    """`increase` sees nothing of a counter that is born with 1."""
    async with serving() as web:
        assert count(web, "POST", "/invocations/*/kill", 500) == 0


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("POST", "/orders/greet", "/*/*", 200),
        ("POST", "/orders/nobody", "/*/*", 404),
        ("POST", "/carts/c-7/size", "/*/*/*", 200),
        ("GET", "/objects/carts/c-7", "/objects/*/*", 200),
        ("GET", "/invocations/inv_x", "/invocations/*", 400),
        ("GET", "/health/live", "/health/live", 200),
    ],
)
async def test_requests_are_counted_by_their_route_and_not_by_their_path(
    method: str, path: str, route: str, status: int
) -> None:
    async with serving() as web:
        assert (await web.client.request(method, path)).status_code == status
        assert count(web, method, route, status) == 1


@pytest.mark.parametrize(("method", "path"), [("GET", "/no/such/path/at/all"), ("BREW", "/orders/greet")])
async def test_what_finds_no_route_is_counted_without_the_clients_words(method: str, path: str) -> None:
    async with serving() as web:
        asked = Exchange(method, path, headers={"host": "localhost:8080"})
        await asked.run(web.app)
        assert count(web, "none", "none", asked.status or 0) == 1
