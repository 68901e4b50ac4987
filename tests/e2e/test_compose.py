"""docker-compose.yml, run: callbacks through real containers, and what an operator does to them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from support.compose import Stack, reason_compose_is_missing
from support.eventually import eventually

pytestmark = [pytest.mark.compose, pytest.mark.timeout(600)]

UID = "10001"
SERVICES = ("service-1", "service-2")
WORKERS = ("worker-1", "worker-2")


class Instances(NamedTuple):
    """A client of each instance of the service."""

    first: httpx.AsyncClient
    second: httpx.AsyncClient


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
async def http(stack: Stack) -> AsyncIterator[Instances]:
    first, second = (httpx.AsyncClient(base_url=url, timeout=30) for url in stack.urls)
    async with first, second:
        yield Instances(first, second)


async def compose(stack: Stack, *words: str) -> str:
    return await asyncio.to_thread(stack.compose, *words)


@asynccontextmanager
async def frozen(stack: Stack, *services: str) -> AsyncIterator[None]:
    """They do nothing; and go on whatever happens, for the next test."""
    for service in services:
        await healthy(stack, service)  # compose passes over one that is just starting
    await compose(stack, "pause", *services)
    try:
        states = {service: stack.container(service).attrs["State"]["Status"] for service in services}
        assert states == dict.fromkeys(services, "paused")
        yield
        known = {service: stack.container(service).attrs["RestartCount"] for service in services}
        assert known == dict.fromkeys(services, 0)
    finally:
        await compose(stack, "unpause", *services)


@asynccontextmanager
async def killed(stack: Stack, service: str) -> AsyncIterator[None]:
    """With SIGKILL; started again whatever happens, for the next test."""
    await compose(stack, "kill", service)
    try:
        yield
    finally:
        await compose(stack, "start", service)
        await healthy(stack, service)


async def healthy(stack: Stack, service: str) -> None:
    await eventually(lambda: stack.health(service) == "healthy", timeout=60)


async def is_ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def begun(http: httpx.AsyncClient, order: str) -> str:
    """Place an order: its invocation."""
    sent = await http.post("/orders/fulfil/send", json={"id": order})
    assert sent.status_code == 202
    return str(sent.json()["invocation_id"])


async def begun_by_both(http: Instances, orders: Sequence[str]) -> dict[str, str]:
    """Place orders, by turns with the first instance and the second: the invocation of each."""
    placed = [begun(http[place % 2], order) for place, order in enumerate(orders)]
    return dict(zip(orders, await asyncio.gather(*placed), strict=True))


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
        pytest.fail(await compose(stack, "logs", "--no-color", "--tail", "50"))


async def all_are_packed(stack: Stack, http: httpx.AsyncClient, invocations: dict[str, str]) -> None:
    for order, invocation in invocations.items():
        assert await output(stack, http, invocation) == packed(order)


def packed(order: str, tracking: str = "") -> dict[str, Any]:
    return {"order": order, "parcel": {"tracking": tracking or f"parcel-of-{order}"}}


async def test_a_callback_goes_through_kafka_to_a_worker_and_back(stack: Stack, http: Instances) -> None:
    # Not as one call: a worker's first assignment by a new Kafka takes seconds, on a busy machine many.
    await all_are_packed(stack, http.second, await begun_by_both(http, ["o-1", "o-2"]))
    for instance in http:
        answer = await instance.post("/orders/fulfil", json={"id": "o-3"})
        assert answer.status_code == 200
        assert answer.json() == packed("o-3")


async def test_the_two_instances_know_each_other(stack: Stack, http: Instances) -> None:
    told = await asyncio.gather(*(instance.get("/instances") for instance in http))
    listed = [answer.json()["items"] for answer in told]
    assert [[row["state"] for row in rows] for rows in listed] == [["alive", "alive"]] * 2
    assert {row["id"] for row in listed[0]} == {row["id"] for row in listed[1]}
    code, table = await asyncio.to_thread(stack.run_in, "service-1", "awakeables", "instances")
    assert code == 0
    assert table.count("alive") == 2


async def test_what_a_killed_instance_ran_is_finished_by_the_other(stack: Stack, http: Instances) -> None:
    async with frozen(stack, *WORKERS):
        invocations = await begun_by_both(http, [f"killed-{n}" for n in range(6)])
        await compose(stack, "kill", "service-1")
    try:
        await all_are_packed(stack, http.second, invocations)
    finally:
        await compose(stack, "start", "service-1")
    await healthy(stack, "service-1")
    assert await output(stack, http.first, invocations["killed-0"]) == packed("killed-0")


async def test_what_waits_survives_a_restart_of_postgresql_and_is_completed_over_http(
    stack: Stack, http: Instances
) -> None:
    async with frozen(stack, *WORKERS):
        invocation = await begun(http.first, "o-4")
        awakeable = await awaited(http.second, invocation)
        await compose(stack, "restart", "postgres")
        for service in ("postgres", *SERVICES):
            await healthy(stack, service)
        resolve = f"/restate/awakeables/{awakeable}/resolve"
        answer = await http.second.post(resolve, json={"tracking": "by hand"})
        known = await http.second.get(f"/awakeables/{awakeable}")
        assert answer.json()["verdict"] == "accepted", known.text
        assert await output(stack, http.first, invocation) == packed("o-4", "by hand")


async def test_the_tasks_of_a_killed_worker_are_done_by_the_other(stack: Stack, http: Instances) -> None:
    async with killed(stack, "worker-1"):
        # Their invocations are the keys: some of them belong to the partitions of the one that is dead.
        invocations = await begun_by_both(http, [f"worker-killed-{n}" for n in range(12)])
        await all_are_packed(stack, http.first, invocations)


async def test_sigterm_drains_and_what_waits_survives_new_containers(stack: Stack, http: Instances) -> None:
    """As after `make down`, `make up`, or with a new image: only the volumes stay."""
    await compose(stack, "stop", *WORKERS)
    invocation = await begun(http.first, "o-5")
    await awaited(http.second, invocation)
    await compose(stack, "stop", *SERVICES)
    codes = {name: stack.container(name).attrs["State"]["ExitCode"] for name in SERVICES + WORKERS}
    said = await compose(stack, "logs", "--no-color", "--tail", "20", *SERVICES, *WORKERS)
    assert codes == dict.fromkeys(SERVICES + WORKERS, 0), said
    before = stack.container("postgres").id
    await compose(stack, "down")
    await asyncio.to_thread(stack.up)
    assert stack.container("postgres").id != before
    assert await output(stack, http.second, invocation) == packed("o-5")


async def test_the_health_check_distinguishes_ready_from_not_there(stack: Stack) -> None:
    for name in WORKERS:  # they were started just before
        await healthy(stack, name)
    assert {stack.health(name) for name in ("kafka", "postgres", *SERVICES)} == {"healthy"}
    check = ("python", "-I", "/opt/awakeables/ready.py")
    assert stack.run_in("service-1", *check) == (0, '{"ready":true}')
    assert stack.run_in("worker-1", *check, "9100") == (0, '{"ready": true}')
    code, told = stack.run_in("worker-1", *check)  # no service there
    assert code == 1
    assert "no answer" in told


def test_nobody_is_root_and_nothing_on_the_disk_can_be_changed(stack: Stack) -> None:
    for name in ("service-1", "worker-1"):
        assert stack.run_in(name, "id", "-u") == (0, f"{UID}\n")
        for path in ("/app/new", "/opt/awakeables/new", "/etc/new"):
            assert stack.run_in(name, "touch", path)[0] == 1
        assert not [mount for mount in stack.container(name).attrs["Mounts"] if mount["RW"]]


def test_the_image_has_what_it_runs_and_no_more(stack: Stack) -> None:
    absent = ("pytest", "mypy", "hypothesis", "confluent_kafka", "hatchling", "pip")
    program = (
        "from importlib.util import find_spec; import awakeables;"
        "from awakeables.web.describing.contract import contract;"
        f"print([name for name in {absent} if find_spec(name)], contract('openapi.json')['openapi'])"
    )
    assert stack.run_in("service-1", "python", "-c", program) == (0, "[] 3.1.0\n")


def test_http_is_published_on_loopback_only(stack: Stack) -> None:
    for name in SERVICES:
        [published] = stack.container(name).ports["8080/tcp"]
        assert published["HostIp"] == "127.0.0.1"
    for name in ("kafka", "postgres", *WORKERS):
        assert not any((stack.container(name).ports or {}).values())


async def test_one_instance_without_postgresql_keeps_its_file_in_the_volume(stack: Stack) -> None:
    with stack.one_instance() as (container, url):
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            await eventually(lambda: is_ready(http), timeout=60)
            invocation = await begun(http, "o-6")
            await asyncio.to_thread(container.kill)
            await asyncio.to_thread(container.start)
            await eventually(lambda: is_ready(http), timeout=60)
            assert (await http.get(f"/invocations/{invocation}")).json()["id"] == invocation
