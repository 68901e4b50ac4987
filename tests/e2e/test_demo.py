"""`make demo`, run: it says what it does, fails loudly, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.eventually import eventually

ROOT = Path(__file__).parents[2]
PORT = 8080

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture
def port_8080_is_taken() -> Iterator[None]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # then somebody else has it, which is as good
            listener.bind(("127.0.0.1", PORT))
            listener.listen()
        yield


async def demo(**environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.demo"),
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def children_of(output: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"\(pid (\d+)\)", output)]


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            found.append(pid)
    return found


async def test_the_demo_shows_every_step_and_checks_it(port_8080_is_taken: None) -> None:
    process = await demo()
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    for words in (
        f"{PORT} is taken",
        "kill -9",
        "its process died of SIGKILL",
        "the answer came over Kafka",
        "its journal has one publish",
        "its side effect happened once",
        "-H 'content-type: application/json' -d '{\"hello\": \"world\"}'",
        "-H 'content-type: text/plain' -d 'Very bad error!'",
        "the verdict on the repeat is duplicate",
        "the handler got the reason",
        "the verdict on the late answer is late",
        "All of it happened",
    ):
        assert words in text
    assert len(children_of(text)) == 3
    assert alive(children_of(text)) == []


async def test_a_demo_that_fails_shows_why_and_exits_with_1() -> None:
    process = await demo(AWAKEABLES_MAX_RUNNING="0")
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert "✗ not so: the service runs" in output.decode()
    assert "AWAKEABLES_MAX_RUNNING" in output.decode().partition("last words")[2]


async def test_ctrl_c_ends_every_process_of_the_demo(port_8080_is_taken: None) -> None:
    process = await demo()
    assert process.stdout is not None
    seen = b""
    while b"is restarted on the same" not in seen:
        line = await process.stdout.readline()
        assert line, seen.decode()
        seen += line
    process.send_signal(signal.SIGINT)
    rest = await process.stdout.read()
    assert await process.wait() == 130
    assert b"interrupted" in rest
    await eventually(lambda: not alive(children_of((seen + rest).decode())))
