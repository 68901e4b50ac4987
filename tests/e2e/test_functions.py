"""A service and the function that its handlers run in, as processes: the function is killed, or not there."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from awakeables.devbroker import EmbeddedBroker
from e2e.chaos.processes import CLI, Victim, kept_running
from support.eventually import eventually
from support.functions import PRIVATE, PUBLIC
from support.real_kafka import free_port

ROOT = Path(__file__).parents[2]
WAITING = int(os.environ.get("FUNCTION_WAITING", "300"))
"""How many invocations wait while there is no function; `FUNCTION_WAITING=10000` for the guide's figure."""

pytestmark = [pytest.mark.timeout(900)]


class Pair:
    """The two processes, and a client of the service."""

    def __init__(self, function: Victim, service: Victim, http: httpx.AsyncClient) -> None:
        self.function = function
        self.service = service
        self.http = http

    async def answers(self) -> bool:
        try:
            return (await self.http.get("/health/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def begin(self, path: str, body: Any) -> str:
        begun = await self.http.post(f"{path}/send", json=body)
        assert begun.status_code == 202, begun.text
        return str(begun.json()["invocation_id"])

    async def listed(self, path: str, **filters: str) -> list[dict[str, Any]]:
        """All items of a list."""
        found: list[dict[str, Any]] = []
        following: str | None = None
        while True:
            params = {"limit": "500", **filters} | ({} if following is None else {"before": following})
            page = (await self.http.get(path, params=params)).json()
            found += page["items"]
            following = page["next"]
            if following is None:
                return found

    async def output(self, invocation: str) -> Any:
        async def ended() -> Any:
            answer = await self.http.get(f"/invocations/{invocation}/output")
            return answer if answer.status_code == 200 else None

        return (await eventually(ended, timeout=120)).json()


@asynccontextmanager
async def pair(
    folder: Path, *, function: str, code: Path, service: str, **settings: str
) -> AsyncIterator[Pair]:
    (folder / "private.pem").write_bytes(PRIVATE)
    (folder / "public.pem").write_text(PUBLIC)
    port, function_port = free_port(), free_port()
    url = f"http://127.0.0.1:{function_port}"
    paths = os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")])
    common = {"PYTHONPATH": paths, "QUOTES_KEY": str(folder / "public.pem"), "QUOTES_URL": url, **settings}
    server = Victim(
        "function",
        *(sys.executable, "-m", "uvicorn", "--log-level", "warning", "--port", str(function_port), function),
        log=folder / "function.log",
        environment=common,
    )
    async with (
        EmbeddedBroker() as broker,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        serving = Victim(
            "service",
            *(CLI, "serve", service),
            log=folder / "service.log",
            environment={
                **common,
                "AWAKEABLES_FUNCTION_KEY": str(folder / "private.pem"),
                "AWAKEABLES_KAFKA": broker.bootstrap,
                "AWAKEABLES_STORE": str(folder / "store.db"),
                "AWAKEABLES_PORT": str(port),
                "AWAKEABLES_LINGER": "PT0.2S",
            },
        )
        both = Pair(server, serving, http)
        try:
            # In this order, so that the start waits for the function.
            await serving.start()
            await server.start()
            await eventually(both.answers, timeout=60)
            yield both
        finally:
            for each in (serving, server):
                if each.starts and each.is_running:
                    await each.kill()


async def test_while_invocations_wait_there_need_be_no_process_of_the_function(tmp_path: Path) -> None:
    here = {"function": "function:function", "service": "service:app", "code": ROOT / "examples/elsewhere"}
    async with pair(tmp_path, **here) as both:  # type: ignore[arg-type]
        for first in range(0, WAITING, 50):
            quotes = range(first, min(first + 50, WAITING))
            await asyncio.gather(
                *(
                    both.begin("/quotes/offer", {"id": f"q-{n}", "customer": "Ada", "value": 1000 + n})
                    for n in quotes
                )
            )

        async def all_wait() -> bool:
            return len(await both.listed("/invocations", status="suspended")) == WAITING

        await eventually(all_wait, timeout=300)
        await both.function.kill()
        for awakeable in await both.listed("/awakeables", state="pending"):
            answer = await both.http.post(f"/restate/awakeables/{awakeable['id']}/resolve", json=True)
            assert answer.json()["verdict"] == "accepted", answer.text

        async def is_known() -> bool:
            board = (await both.http.get("/health/ready")).json()
            return "function quotes" in str(board)

        await eventually(is_known, timeout=60)
        [known] = (await both.http.get("/functions")).json()["items"]
        assert (known["service"], known["handlers"]) == ("quotes", ["quotes/offer"])
        assert "can't be reached" in known["problem"]
        refused = await both.http.post("/functions/quotes/refresh")
        assert (refused.status_code, "can't be reached" in refused.json()["detail"]) == (503, True)
        await both.function.start()

        async def all_ended() -> bool:
            return len(await both.listed("/invocations", status="completed")) == WAITING

        await eventually(all_ended, timeout=600)
        refreshed = await both.http.post("/functions/quotes/refresh")
        assert (refreshed.status_code, refreshed.json()["problem"]) == (200, None)
        contract = await both.output((await both.listed("/invocations"))[-1]["id"])
        assert contract["state"] == "signed"


CODE = """
import os
from pathlib import Path
from awakeables import App, Context, Service
from awakeables.remote import asgi

steps = Service("steps")
BOOK = Path(os.environ["BOOK"])

@steps.handler()
async def walk(ctx: Context, name: str) -> list[object]:
    done = []
    for number in range(4):
        done.append(await ctx.run(f"step {number}", step, name, number))
        if number == 1:
            done.append(await ctx.gather(ctx.run("left", step, name, 10), ctx.run("right", step, name, 11)))
    return done

async def step(name: str, number: int) -> str:
    with BOOK.open("a") as book:
        book.write(f"{name} {number}\\n")
    return f"{name} {number}"

function = asgi(App("steps", services=[steps]), keys=[Path(os.environ["QUOTES_KEY"]).read_text()])
"""

SERVICE = """
import os
from awakeables import App, RemoteService

app = App("walks", services=[RemoteService("steps", url=os.environ["QUOTES_URL"])])
"""


async def test_a_function_that_is_killed_again_and_again_repeats_only_what_is_not_recorded(
    tmp_path: Path,
) -> None:
    (tmp_path / "steps_function.py").write_text(CODE)
    (tmp_path / "steps_service.py").write_text(SERVICE)
    book, chance, kills = tmp_path / "book", random.Random(1), 6
    book.touch()
    async with pair(
        tmp_path,
        function="steps_function:function",
        service="steps_service:app",
        code=tmp_path,
        BOOK=str(book),
    ) as both:
        begun: dict[str, str] = {}
        for kill in range(kills):
            for n in range(10):
                name = f"w{kill}-{n}"
                begun[name] = await both.begin("/steps/walk", name)
            await asyncio.sleep(chance.random() * 0.3)
            await both.function.kill()
            await asyncio.sleep(chance.random() * 0.5)
            await both.function.start()
            await asyncio.sleep(0.8)
        for name, invocation in begun.items():
            walked = await both.output(invocation)
            steps = [f"{name} {n}" for n in range(4)]
            assert walked == [*steps[:2], [f"{name} 10", f"{name} 11"], *steps[2:]]
    executed = Counter(book.read_text().splitlines())
    assert set(executed) == {f"{name} {n}" for name in begun for n in (0, 1, 2, 3, 10, 11)}
    # What is executed again was under way when the function was killed: for each kill, two of an invocation.
    assert sum(executed.values()) - len(executed) <= 2 * len(begun)


DYING = """
import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path
from awakeables import App, Context, Service
from awakeables.remote import asgi

steps = Service("steps")
FOLDER = Path(os.environ["BOOK"])

class Requests:
    number = 0

def die_if(moment: str) -> None:
    # The plan is gone before the process is, so that the next one lives.
    if (FOLDER / "plan").exists() and (FOLDER / "plan").read_text() == f"{Requests.number} {moment}":
        (FOLDER / "plan").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

@steps.handler()
async def walk(ctx: Context) -> list[str]:
    first = await ctx.run("first", step, "first")
    both = await ctx.gather(ctx.run("left", step, "left"), ctx.run("right", step, "right"))
    told = ctx.awakeable(str)
    ctx.publish("questions", first, awakeable=told)
    answer = await told
    await ctx.sleep(timedelta(milliseconds=10))
    return [first, *both, answer, await ctx.run("last", step, "last")]

async def step(name: str) -> str:
    with (FOLDER / "book").open("a") as book:
        book.write(f"{name} {Requests.number}\\n")
    die_if("during")
    return name

function = asgi(App("steps", services=[steps]), keys=[Path(os.environ["QUOTES_KEY"]).read_text()])

async def dying(scope, receive, send):
    if scope["type"] != "http" or scope["method"] != "POST":
        return await function(scope, receive, send)
    with (FOLDER / "requests").open("a") as requests:
        requests.write(".")
    Requests.number = (FOLDER / "requests").stat().st_size
    die_if("before")
    sent = []
    async def keep(message):
        sent.append(message)
    await function(scope, receive, keep)
    die_if("after")
    for message in sent:
        await send(message)
"""


@pytest.mark.parametrize("moment", ["before", "during", "after"])
async def test_a_function_may_be_killed_in_any_of_its_requests(moment: str, tmp_path: Path) -> None:
    """Before it does anything, during an action, or with the answer at hand: one kill, in each request."""
    (tmp_path / "steps_function.py").write_text(DYING)
    (tmp_path / "steps_service.py").write_text(SERVICE)
    plan, requests, book = (tmp_path / name for name in ("plan", "requests", "book"))
    kills, where = [], {"function": "steps_function:dying", "service": "steps_service:app"}
    async with (
        pair(tmp_path, **where, code=tmp_path, BOOK=str(tmp_path)) as both,
        kept_running(both.function),
    ):
        for number in count(1):
            requests.write_text("")
            book.write_text("")
            plan.write_text(f"{number} {moment}")
            invocation = await both.begin("/steps/walk", None)

            async def asked() -> Any:
                return await both.listed("/awakeables", state="pending")

            [awakeable] = await eventually(asked, timeout=60)
            await both.http.post(f"/restate/awakeables/{awakeable['id']}/resolve", json="yes")
            assert await both.output(invocation) == ["first", "left", "right", "yes", "last"]
            executed: dict[str, list[int]] = {"first": [], "left": [], "right": [], "last": []}
            for line in book.read_text().splitlines():
                name, request = line.split()
                executed[name].append(int(request))
            # Executed in one request, and again only if the kill was in that one: nothing was recorded.
            for name, found in executed.items():
                assert len(found) == 1 or (len(found) == 2 and found[0] == number), (number, name, found)
            if not plan.exists():
                kills.append(number)
            elif number >= requests.stat().st_size:
                break
    assert kills == ([2, 4, 8] if moment == "during" else [1, 2, 3, 4, 5, 6, 7, 8, 9])


async def test_a_service_that_waits_for_its_function_stops_when_it_is_told_to(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(600)

    (tmp_path / "steps_service.py").write_text(SERVICE)
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    service = Victim(
        "service",
        *(CLI, "serve", "steps_service:app"),
        log=tmp_path / "service.log",
        environment={
            "PYTHONPATH": str(tmp_path),
            "QUOTES_URL": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            "AWAKEABLES_KAFKA": "127.0.0.1:1",
            "AWAKEABLES_STORE": str(tmp_path / "store.db"),
            "AWAKEABLES_PORT": str(free_port()),
        },
    )
    await service.start()
    try:
        await asyncio.wait_for(asked.wait(), 60)
        service.process.terminate()
        assert await asyncio.wait_for(service.process.wait(), 60) == 0
    finally:
        service.kill_now()
        server.close()
