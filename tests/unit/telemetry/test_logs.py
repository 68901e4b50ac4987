"""What a log line says, and in which form."""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from awakeables.core.texts import stack_of
from awakeables.engine.engine import HandlersRun
from awakeables.errors import BrokerUnavailable, PublishRefused, TerminalError
from awakeables.handlers.context import Context
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.stateless import StatelessAttempts
from awakeables.telemetry import events
from awakeables.testing.bench import Bench, quick, until
from support.ids import new_id
from unit.engine.harness import resolution, wait

SERVICE = Path(__file__).parents[3] / "service/awakeables"
OF_HANDLERS = {
    "ATTEMPT_FAILED",
    "HANDLER_AWAITS_ASYNCIO",
    "INVOCATION_BEGAN",
    "INVOCATION_ENDED",
    "INVOCATION_PAUSED",
    "RUN_FAILED",
    "RUNS_ABANDONED",
}
"""Events that are always about one invocation, and name its service and handler."""
OF_INVOCATIONS = OF_HANDLERS | {"OWNERSHIP_LOST"}
"""Events that are always about one invocation."""


def logged() -> Iterator[tuple[str, str, set[str | None]]]:
    """Every call of a logger: where, which event, which fields (None: more of them by `**`)."""
    for file in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="debug" | "info" | "warning" | "error" | "exception" | "log"),
                    args=[ast.Attribute(value=ast.Name(id="events"), attr=event), *_]
                    | [_, ast.Attribute(value=ast.Name(id="events"), attr=event), *_],
                ):
                    yield f"{file.name}:{node.lineno}", event, {field.arg for field in node.keywords}


def test_every_line_about_an_invocation_carries_its_id() -> None:
    lines = [line for line in logged() if line[1] in OF_INVOCATIONS]
    assert {event for _, event, _ in lines} == OF_INVOCATIONS
    assert [line for line in lines if "invocation_id" not in line[2]] == []
    failures = [line for line in lines if line[1] in OF_HANDLERS]
    assert {event for _, event, _ in failures} == OF_HANDLERS
    assert [line for line in failures if not line[2] >= {"service", "handler"}] == []


def test_events_have_names_of_their_own() -> None:
    names = [value for name, value in vars(events).items() if name.isupper()]
    assert len(names) == len(set(names))
    assert {event for _, event, _ in logged()} <= vars(events).keys()


@pytest.mark.parametrize("adapter", [LocalAttempts, StatelessAttempts])
async def test_a_failed_attempt_is_logged_with_its_stack_wherever_the_handler_runs(
    adapter: HandlersRun, logs: list[Any]
) -> None:
    def raises() -> None:
        raise ConnectionError("down")

    async def fails(ctx: Context) -> None:
        raises()

    bench = Bench(handlers=adapter)
    async with bench.serving(quick(retry=RetryPolicy(max_attempts=1)), fails=fails) as process:
        await bench.status(await bench.begin(process, "fails"), "paused")
    line = logs[0]
    stack = (stack_of(line["exc_info"]) if "exc_info" in line else line["exception"]).splitlines()
    assert stack[0] == "Traceback (most recent call last):"
    assert any(said.endswith("in raises") for said in stack)
    assert stack[-1] == "ConnectionError: down"


@pytest.mark.parametrize("adapter", [LocalAttempts, StatelessAttempts])
async def test_a_handler_that_awaits_asyncio_is_warned_of_once(adapter: HandlersRun, logs: list[Any]) -> None:
    async def naps(ctx: Context) -> None:
        await asyncio.sleep(0.001)
        await ctx.sleep(timedelta(seconds=5))
        await asyncio.sleep(0.001)

    async def drops_in(ctx: Context) -> None:
        await asyncio.sleep(0)

    async def acts(ctx: Context) -> None:
        await ctx.run("nap", functools.partial(asyncio.sleep, 0.001))

    bench = Bench(handlers=adapter)
    async with bench.serving(quick(), naps=naps, drops_in=drops_in, acts=acts) as process:
        for name in ("naps", "acts", "naps", "drops_in"):
            await bench.status(await bench.begin(process, name), "completed")
    warned = [line for line in logs if line["event"] == events.HANDLER_AWAITS_ASYNCIO]
    assert [(line["service"], line["handler"]) for line in warned] == [
        ("orders", "naps"),
        ("orders", "drops_in"),
    ]
    assert all("ctx.sleep" in line["todo"] and "ctx.run" in line["todo"] for line in warned)


async def test_actions_that_are_left_when_their_invocation_ends_are_named(all_logs: list[Any]) -> None:
    async def races(ctx: Context) -> None:
        slow = ctx.run("slow", functools.partial(asyncio.sleep, 60))
        await ctx.race(slow, ctx.sleep(timedelta(seconds=1)))

    bench = Bench()
    async with bench.serving(races=races) as process:
        await bench.status(await bench.begin(process, "races"), "completed")
    [left] = [line for line in all_logs if line["event"] == events.RUNS_ABANDONED]
    assert (left["handler"], left["runs"], left["end"]) == ("races", ["slow"], "succeeded")


async def test_a_handler_that_fails_and_is_paused_is_named_with_what_to_do(logs: list[Any]) -> None:
    async def fails(ctx: Context) -> None:
        raise ConnectionError("down")

    bench = Bench()
    async with bench.serving(quick(retry=RetryPolicy(max_attempts=1)), fails=fails) as process:
        invocation_id = await bench.begin(process, "fails")
        await bench.status(invocation_id, "paused")
    assert [line["event"] for line in logs] == [events.ATTEMPT_FAILED, events.INVOCATION_PAUSED]
    assert {(line["invocation_id"], line["service"], line["handler"]) for line in logs} == {
        (invocation_id, "orders", "fails")
    }
    assert logs[1]["todo"] == f"`awakeables show {invocation_id}`, then `awakeables resume` or `kill`"


async def test_an_action_that_fails_again_and_again_is_logged_each_time(logs: list[Any]) -> None:
    async def pay(ctx: Context) -> Any:
        def charge() -> None:
            raise ConnectionError("down")

        await ctx.run("charge", charge, retry=RetryPolicy(initial_interval=timedelta(0), max_attempts=3))

    bench = Bench()
    async with bench.serving(pay=pay) as process:
        await bench.status(await bench.begin(process, "pay"), "completed")
    assert [(line["event"], line["run"], line["failures"], line["retry_in_ms"]) for line in logs[:-1]] == [
        (events.RUN_FAILED, "charge", 1, 0),
        (events.RUN_FAILED, "charge", 2, 0),
        (events.RUN_FAILED, "charge", 3, None),
    ]
    assert logs[-1]["event"] == events.INVOCATION_ENDED


async def test_what_kafka_refuses_is_logged_with_the_invocation(logs: list[Any]) -> None:
    async def publish(ctx: Context) -> Any:
        ctx.publish("tasks", 1)
        return await ctx.awakeable()

    bench = Bench()
    errors = [BrokerUnavailable("away"), PublishRefused("too large")]
    bench.broker.fail = lambda _effect: errors.pop(0) if errors else None
    async with bench.serving(publish=publish) as process:
        invocation_id = await bench.begin(process, "publish")
        await until(lambda: len(logs) == 2)
    assert [line["event"] for line in logs] == [events.EFFECT_FAILED, events.EFFECT_REFUSED]
    assert {line["invocation_id"] for line in logs} == {invocation_id}


async def test_three_dead_letters_of_a_batch_are_logged_with_their_reasons(logs: list[Any]) -> None:
    bench = Bench()
    unknown = new_id("prom", at_ms=bench.clock.now_ms(), entropy=bytes(10))
    long = b'{"awakeable_id": "prom_1%s", "secret": 1}' % (b"x" * 1000)
    async with bench.serving() as process:
        await bench.records(process, resolution(unknown), b"{", long, b"[]", b"{")
    [line] = logs
    assert (line["event"], line["count"]) == (events.DEAD_LETTERS, 5)
    told = {letter["offset"]: letter for letter in line["first"]}
    assert len(told) == len(line["first"]) == 3
    assert all(letter["reason"] and len(letter["reason"]) <= 200 for letter in line["first"])
    assert "secret" not in repr(line)
    assert told.keys() < set(range(5))


async def test_a_commit_that_is_refused_is_logged_with_the_invocation(logs: list[Any]) -> None:
    async def nothing(ctx: Context) -> None:
        return None

    bench = Bench()
    bench.store.refuses = lambda member: type(member).__name__ == "Begin"
    async with bench.serving(nothing=nothing) as process:
        with pytest.raises(Exception, match="can't be kept"):
            await bench.begin(process, "nothing")
    told = [line for line in logs if line["event"] == events.MEMBER_REFUSED]
    assert [(line["command"], line["invocation_id"][:4]) for line in told] == [("Begin", "inv_")]


def test_in_json_every_line_is_an_object_and_a_stack_a_field() -> None:
    program = """
import structlog
from awakeables.telemetry.logs import configure_logs
configure_logs(format_="json", level="info")
log = structlog.stdlib.get_logger()
try:
    raise ValueError("no\\nway")
except ValueError as error:
    log.error("attempt_failed", invocation_id="inv_1", exc_info=error)
log.debug("not at this level")
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    [line] = map(json.loads, told.stderr.splitlines())
    assert line.items() >= {"event": "attempt_failed", "level": "error", "invocation_id": "inv_1"}.items()
    assert "ValueError: no\nway" in line["exception"]
    assert "Traceback" in line["exception"]


CONSOLE = """
import logging, sys
import structlog
from awakeables.telemetry.logs import configure_logs
configure_logs(format_="console", level="info")
log = structlog.stdlib.get_logger()
NASTY = "no\\r\\nFORGED \\x1b[2J\\x07\\x9b1m\\u202egnp.exe\\u2028FORGED\\udcff end"
class Odd(Exception):
    pass
def cause():
    raise ValueError(NASTY)
try:
    try:
        cause()
    except ValueError as first:
        second = Odd(NASTY)
        second.add_note(NASTY)
        raise ExceptionGroup(NASTY, [second]) from first
except ExceptionGroup as error:
    log.error("attempt_failed", exc_info=error, reason=NASTY, short=NASTY.replace(" ", ""), several=[NASTY])
    logging.getLogger("library").error("%s", NASTY, exc_info=error)
log.warning(NASTY, stack="File 1" + chr(10) + chr(27) + "File 2")
log.warning("attempt_failed", exception="File 3" + chr(10) + chr(27) + "File 4")
"""


def test_case_o11_texts_of_others_forge_no_line_and_steer_no_terminal() -> None:
    told = subprocess.run([sys.executable, "-c", CONSOLE], capture_output=True, check=True).stderr.decode()
    raw = {ord(c) for c in told if not c.isprintable() and c != "\n"}
    assert raw == set()
    assert not any(line.lstrip(" |").startswith("FORGED") for line in told.splitlines())
    said = r"no\r\nFORGED \u001b[2J\u0007\u009b1m\u202egnp.exe\u2028FORGED\udcff end"
    assert told.count(f"ValueError: {said}\n") == 2
    assert told.count(f"Odd: {said}\n") == 2
    assert told.count(f"| {said}\n") == 2, "the note"
    assert "    raise ValueError(NASTY)" in told or "in cause\n" in told, "a stack keeps its lines"
    assert f"ERROR library: {said}\n" in told
    assert "File 1\n\\u001bFile 2" in told
    assert "File 3\n\\u001bFile 4" in told
    assert "UserWarning" not in told


async def test_case_u3_an_invocation_s_begin_and_end_are_logged_with_how_and_how_long(
    all_logs: list[Any],
) -> None:
    async def refuse(ctx: Context) -> None:
        raise TerminalError("out of stock\n" + "x" * 1000, code=409)

    async def rest(ctx: Context) -> str:
        await ctx.sleep(timedelta(seconds=2))
        return "rested"

    bench = Bench()
    settings = replace(quick(), log_invocations=logging.INFO)
    async with bench.serving(settings, refuse=refuse, rest=rest, wait=wait) as process:
        refused, rested = await bench.begin(process, "refuse"), await bench.begin(process, "rest")
        waiting = [await bench.begin(process, "wait") for _ in range(2)]
        for invocation_id in (refused, rested):
            await bench.status(invocation_id, "completed")
        for invocation_id in waiting:
            await bench.status(invocation_id, "suspended")
        await process.api.kill(waiting[0])
        await process.api.cancel(waiting[1])
        await bench.status(waiting[1], "completed")
    began = [line for line in all_logs if line["event"] == events.INVOCATION_BEGAN]
    ended = {line["invocation_id"]: line for line in all_logs if line["event"] == events.INVOCATION_ENDED}
    assert [line["invocation_id"] for line in began] == [refused, rested, *waiting]
    assert len(all_logs) == 8
    assert {line["service"] for line in all_logs} == {"orders"}
    assert {line["log_level"] for line in began} == {"info"}
    told = ended[refused]
    assert (told["handler"], told["outcome"], told["code"]) == ("refuse", "failed", 409)
    assert told["log_level"] == "warning"
    assert told["reason"].startswith("out of stock")
    assert len(told["reason"]) <= 200
    told = ended[rested]
    assert (told["outcome"], told["log_level"], "reason" in told) == ("succeeded", "info", False)
    assert 2000 <= told["duration_ms"] < 3000
    assert {ended[invocation_id]["outcome"] for invocation_id in waiting} == {"cancelled"}


async def test_case_u3_by_default_only_failures_are_more_than_debug(all_logs: list[Any]) -> None:
    async def refuse(ctx: Context) -> None:
        raise TerminalError("no")

    async def nothing(ctx: Context) -> None:
        return None

    bench = Bench()
    async with bench.serving(refuse=refuse, nothing=nothing) as process:
        for handler in ("refuse", "nothing"):
            await bench.status(await bench.begin(process, handler), "completed")
    assert sorted(line["log_level"] for line in all_logs) == ["debug", "debug", "debug", "warning"]


@pytest.mark.parametrize("format_", ["json", "console"])
def test_case_p7_a_stack_in_the_log_is_bounded_whatever_its_errors_say(format_: str) -> None:
    program = f"""
import structlog
from awakeables.telemetry.logs import configure_logs
configure_logs(format_="{format_}", level="info")

class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")

def fail(depth):
    try:
        if not depth:
            raise ValueError("x" * 10_000_000)
        fail(depth - 1)
    except Exception as error:
        raise Mute(depth) from error

try:
    fail(100)
except Mute as error:
    structlog.stdlib.get_logger().error("attempt_failed", exc_info=error)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(told.stderr) < 30_000
    assert "more characters)" in told.stderr
    assert "characters left out" in told.stderr
    assert "Mute: <exception str() failed>" in told.stderr


EVERYTHING = """
import asyncio, gc, logging, threading, warnings
from awakeables.telemetry.logs import configure_logs, log_uncaught_errors

class Fragile:
    def __del__(self):
        raise ValueError("while it was deleted")

async def main():
    asyncio.get_running_loop().create_future().set_exception(ConnectionError("nobody asked"))
    gc.collect()

configure_logs(format_="json", level="info")
log_uncaught_errors()
logging.getLogger("uvicorn.error").warning("too\\nmany %s", "connections")
warnings.warn("it will be gone", DeprecationWarning, stacklevel=1)
asyncio.run(main())
thread = threading.Thread(target=lambda: 1 / 0, name="helper")
thread.start()
thread.join()
Fragile()
raise LookupError("nobody caught it")
"""


def test_case_r6_every_line_is_json_whoever_writes_it() -> None:
    command = [sys.executable, "-W", "always", "-c", EVERYTHING]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 1
    assert [(line["level"], line.get("logger", ""), line["event"].split(":")[0]) for line in lines] == [
        ("warning", "uvicorn.error", "too\nmany connections"),
        ("warning", "py.warnings", "<string>"),
        ("error", "asyncio", "Future exception was never retrieved\nfuture"),
        ("error", "", events.UNHANDLED),
        ("error", "", events.UNHANDLED),
        ("critical", "", events.UNHANDLED),
    ]
    raised = ("ConnectionError", "ZeroDivisionError", "ValueError", "LookupError")
    for line, error in zip(lines[2:], raised, strict=True):
        assert error in line["exception"]
    assert all("timestamp" in line for line in lines)
