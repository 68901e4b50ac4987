"""docker-compose.yml, run: a callback through real containers, and what an operator does to them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from support.compose import Stack, reason_compose_is_missing
from support.eventually import eventually

pytestmark = [pytest.mark.compose, pytest.mark.timeout(300)]

UID = "10001"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Up, with whatever a test stopped brought up again by that test."""
    if reason := reason_compose_is_missing():
        if os.environ.get("REQUIRE_COMPOSE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    stack = Stack()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
        yield client


async def compose(stack: Stack, *words: str) -> None:
    await asyncio.to_thread(stack.compose, *words)


@asynccontextmanager
async def away(stack: Stack, *services: str) -> AsyncIterator[None]:
    """Stopped, and started again whatever happens, for the next test."""
    await compose(stack, "stop", *services)
    try:
        yield
    finally:
        await compose(stack, "start", *services)


async def healthy(stack: Stack, service: str) -> None:
    await eventually(lambda: stack.health(service) == "healthy", timeout=60)


async def begun(http: httpx.AsyncClient, order: str) -> str:
    """Place an order: its invocation."""
    sent = await http.post("/orders/fulfil/send", json={"id": order})
    assert sent.status_code == 202
    return str(sent.json()["invocation_id"])


async def awaited(http: httpx.AsyncClient, invocation: str) -> str:
    """The awakeable that the invocation waits for."""

    async def awakeable() -> str:
        page = (await http.get("/awakeables", params={"state": "pending"})).json()
        [found] = [item["id"] for item in page["items"] if item["invocation"] == invocation] or [""]
        return str(found)

    return await eventually(awakeable)


async def output(stack: Stack, http: httpx.AsyncClient, invocation: str) -> Any:
    """What it returned; fails the test with the containers' logs if it doesn't end."""

    async def ended() -> Any:
        answer = await http.get(f"/invocations/{invocation}/output")
        return answer.json() if answer.status_code == 200 else None

    try:
        return await eventually(ended, timeout=60)
    except AssertionError:
        pytest.fail(await asyncio.to_thread(stack.compose, "logs", "--no-color", "--tail", "50"))


async def test_a_callback_goes_through_kafka_to_the_worker_and_back(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    # Not as one call: a worker's first assignment by a new Kafka takes seconds, on a busy machine many.
    assert await output(stack, http, await begun(http, "o-0")) == {
        "order": "o-0",
        "parcel": {"tracking": "parcel-of-o-0"},
    }
    answer = await http.post("/orders/fulfil", json={"id": "o-1"})
    assert answer.status_code == 200
    assert answer.json() == {"order": "o-1", "parcel": {"tracking": "parcel-of-o-1"}}


async def test_what_waits_survives_a_restart_of_the_service_and_is_completed_over_http(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    async with away(stack, "worker"):
        invocation = await begun(http, "o-2")
        awakeable = await awaited(http, invocation)
        await compose(stack, "restart", "service")
        await healthy(stack, "service")
        answer = await http.post(f"/restate/awakeables/{awakeable}/resolve", json={"tracking": "by hand"})
        assert answer.json()["verdict"] == "accepted"
        assert await output(stack, http, invocation) == {"order": "o-2", "parcel": {"tracking": "by hand"}}


async def test_what_waits_survives_new_containers(stack: Stack, http: httpx.AsyncClient) -> None:
    """As after `make down`, `make up`, or with a new image: only the volumes stay."""
    await compose(stack, "stop", "worker")
    invocation = await begun(http, "o-3")
    await awaited(http, invocation)
    before = stack.container("service").id
    await compose(stack, "down")
    await asyncio.to_thread(stack.up)
    assert stack.container("service").id != before
    assert await output(stack, http, invocation) == {"order": "o-3", "parcel": {"tracking": "parcel-of-o-3"}}


async def test_sigterm_drains_within_the_grace_and_exits_with_0(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    # Told while it still loads its modules, a process ends at once, with another code.
    await output(stack, http, await begun(http, "o-4"))
    async with away(stack, "worker"):
        await awaited(http, await begun(http, "o-5"))
        async with away(stack, "service"):
            states = {name: stack.container(name).attrs["State"] for name in ("worker", "service")}
            codes = {name: state["ExitCode"] for name, state in states.items()}
            said = await asyncio.to_thread(stack.compose, "logs", "--no-color", "--tail", "20", "worker")
            assert codes == {"worker": 0, "service": 0}, said
        await healthy(stack, "service")


async def test_the_health_check_distinguishes_ready_from_not_there(stack: Stack) -> None:
    await healthy(stack, "worker")  # it was started anew just before
    assert {stack.health(name) for name in ("kafka", "service", "worker")} == {"healthy"}
    check = ("python", "-I", "/opt/awakeables/ready.py")
    assert stack.run_in("service", *check) == (0, '{"ready":true}')
    assert stack.run_in("worker", *check, "9100") == (0, '{"ready": true}')
    code, told = stack.run_in("worker", *check)  # no service there
    assert code == 1
    assert "no answer" in told


def test_nobody_is_root_and_nothing_can_be_changed_but_the_volume(stack: Stack) -> None:
    for name in ("service", "worker"):
        assert stack.run_in(name, "id", "-u") == (0, f"{UID}\n")
        for path in ("/app/new", "/opt/awakeables/new", "/etc/new"):
            assert stack.run_in(name, "touch", path)[0] == 1
    assert stack.run_in("service", "touch", "/var/lib/awakeables/new") == (0, "")


def test_the_image_has_what_it_runs_and_no_more(stack: Stack) -> None:
    absent = ("pytest", "mypy", "hypothesis", "confluent_kafka", "hatchling", "pip")
    program = (
        "from importlib.util import find_spec; import awakeables;"
        "from awakeables.web.describing.contract import contract;"
        f"print([name for name in {absent} if find_spec(name)], contract('openapi.json')['openapi'])"
    )
    assert stack.run_in("service", "python", "-c", program) == (0, "[] 3.1.0\n")


def test_http_is_published_on_loopback_only(stack: Stack) -> None:
    [published] = stack.container("service").ports["8080/tcp"]
    assert published["HostIp"] == "127.0.0.1"
    assert not any((stack.container("kafka").ports or {}).values())
