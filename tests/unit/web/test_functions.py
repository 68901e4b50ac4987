"""`/functions`: an app without remote services, and one whose functions are known."""

from __future__ import annotations

from awakeables.errors import NotFound, OperatorError
from awakeables.ports import FunctionStatus
from awakeables.telemetry import events
from support.logs import heard
from unit.web.harness import Web
from unit.web.test_completing import problem

KNOWN = FunctionStatus(
    service="orders",
    url="http://127.0.0.1:8090",
    build="2026.12",
    handlers=("orders/fulfil",),
    requests=3,
    problem=None,
)


class Known:
    """The functions of one remote service, `down` or not."""

    down = False

    def statuses(self) -> list[FunctionStatus]:
        return [KNOWN]

    async def refresh(self, service: str) -> FunctionStatus:
        if service != "orders":
            raise NotFound(f"no remote service {service!r}; there are: orders")
        if self.down:
            raise OperatorError("the function can't be reached")
        return KNOWN


async def test_an_app_without_remote_services_has_none(web: Web) -> None:
    assert (await web.client.get("/functions")).json() == {"items": []}
    refused = await web.client.post("/functions/orders/refresh")
    assert "no remote service orders; the app has none" in problem(refused, 404, "not-found")["detail"]


async def test_functions_are_listed_and_read_again(web: Web) -> None:
    functions = web.api._functions = Known()
    [item] = (await web.client.get("/functions")).json()["items"]
    assert item == {
        "service": "orders",
        "url": "http://127.0.0.1:8090",
        "build": "2026.12",
        "handlers": ["orders/fulfil"],
        "requests": 3,
        "problem": None,
    }
    with heard() as logs:
        assert (await web.client.post("/functions/orders/refresh")).json() == item
        typo = await web.client.post("/functions/order/refresh")
        assert "there are: orders" in problem(typo, 404, "not-found")["detail"]
        functions.down = True
        down = await web.client.post("/functions/orders/refresh")
        assert "can't be reached" in problem(down, 503, "unavailable")["detail"]
    acts = [each["act"] for each in logs if each["event"] == events.OPERATOR_ACTED]
    assert acts == ["refresh", "refresh"]
