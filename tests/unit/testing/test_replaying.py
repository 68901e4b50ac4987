"""Stored journals against changed code: what a replay calls a difference, and what it does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from awakeables import (
    App,
    Cancelled,
    Context,
    ObjectContext,
    RetryPolicy,
    Service,
    TerminalError,
    VirtualObject,
)
from awakeables.core.outcomes import encode_outcome
from awakeables.testing import Replayed, replay
from awakeables.testing.bench import Bench, Process, quick
from awakeables.testing.loop import SeededLoop
from awakeables.web import render
from awakeables.web.responses import as_json
from golden.handlers import app as golden
from golden.test_golden import FILES, read

Function = Callable[..., Any]

done: list[str] = []
"""What actions have done."""


def act(what: str) -> str:
    done.append(what)
    return what


async def helper(ctx: Context, n: int) -> int:
    return n + 1


async def finished(ctx: Context, n: int) -> dict[str, Any]:
    at = ctx.now()
    first = await ctx.run("first", act, f"first {ctx.uuid()}")
    ctx.publish("notices", {"n": n})
    return {"n": n, "first": first, "at": at.isoformat(), "chance": ctx.random().random()}


async def is_open(ctx: Context, n: int) -> Any:
    asked = ctx.awakeable(int, timeout=timedelta(days=30))
    ctx.publish("questions", n, awakeable=asked)
    return await asked


async def calls(ctx: Context, n: int) -> int:
    sent = ctx.send(helper, 5)
    return await ctx.call(helper, n) + await sent


async def fails_first(ctx: Context, n: int) -> str:
    return await ctx.run("flaky", flaky, retry=RetryPolicy(initial_interval=timedelta(seconds=1)))


def flaky() -> str:
    done.append("tried")
    if len(done) < 3:
        raise ConnectionError("down")
    return "up"


async def fails(ctx: Context, n: int) -> None:
    await ctx.sleep(timedelta(seconds=1))
    raise TerminalError("out of stock", code=409, details={"n": n})


async def combines(ctx: Context, n: int) -> list[Any]:
    slow, quick_ = ctx.sleep(timedelta(hours=2)), ctx.run("quick", act, "quick")
    won = await ctx.race(slow, quick_)
    never = ctx.awakeable(int)
    await ctx.any(never, ctx.sleep(timedelta(seconds=1)))
    return [won, await ctx.gather(ctx.call(helper, 1), ctx.call(helper, 2))]


cart = VirtualObject("cart")
TOTAL = cart.state("total", int, default=0)


async def of_a_key(ctx: ObjectContext, n: int) -> Any:
    ctx.set(TOTAL, await ctx.get(TOTAL) + n)
    await ctx.sleep(timedelta(seconds=1))
    return [await ctx.get(TOTAL), list(await ctx.keys())]


def app_of(**functions: Function) -> App:
    """An app with handlers of these names: of `work`, or of `cart` if they take the context of an object."""
    service, callees, keyed = Service("work"), Service("callees"), VirtualObject("cart")
    callees.handler()(helper)
    for name, function in functions.items():
        of_key = "ObjectContext" in str(function.__annotations__["ctx"])
        (keyed if of_key else service).handler(name)(function)
    return App("shop", services=[service, callees, keyed])


def recorded(
    folder: Path,
    function: Function,
    *,
    status: str = "completed",
    act_on: Callable[[Process, str], Any] | None = None,
    content: bytes = b"7",
) -> Path:
    """The journal of an invocation of `handler`, stored as the service answers it."""

    async def record() -> bytes:
        keyed = "ObjectContext" in str(function.__annotations__["ctx"])
        bench = Bench(service="cart" if keyed else "work")
        async with bench.running(app_of(handler=function), quick()) as process:
            key = {"key": "c-7"} if keyed else {}
            invocation_id = await bench.begin(process, "handler", content, **key)
            if act_on is not None:
                await bench.status(invocation_id, "suspended")
                await act_on(process, invocation_id)
            await bench.status(invocation_id, status)
            row, journal = await process.api.with_journal(invocation_id, 1_000_000)
            return as_json(render.journal("shop", row, journal)).body

    loop = SeededLoop()
    try:
        stored = loop.run_until_complete(record())
    finally:
        loop.close()
    path = folder / f"{function.__name__}.json"
    path.write_bytes(stored)
    done.clear()
    return path


def replayed(path: Path, function: Function) -> Replayed:
    [found] = replay(app_of(handler=function), path)
    return found


def difference(path: Path, function: Function) -> str:
    found = replayed(path, function)
    assert found.is_decided
    assert found.difference is not None
    return found.difference


# ── Nothing has changed ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (finished, "completed"),
        (is_open, "suspended"),
        (calls, "completed"),
        (fails_first, "completed"),
        (fails, "completed"),
        (combines, "completed"),
        (of_a_key, "completed"),
        (of_a_key, "suspended"),
        (combines, "suspended"),
    ],
)
def test_code_that_has_not_changed_repeats_a_journal_and_does_nothing_again(
    tmp_path: Path, function: Function, status: str
) -> None:
    path = recorded(tmp_path, function, status=status)
    found = replayed(path, function)
    assert found.difference is None
    assert found.is_decided
    assert (found.path, found.handler.split("/")[1]) == (str(path), "handler")
    assert found.invocation_id.startswith("inv_1")
    assert done == []


def test_golden_journals_of_all_kinds_are_repeated(tmp_path: Path) -> None:
    for path in FILES:
        old = read(path)
        document = {
            "format": 1,
            "app": "golden",
            "invocation_id": old.invocation_id,
            "service": old.service,
            "handler": old.handler,
            "exclusive": old.service != "golden",
            "status": "suspended" if old.end is None else "completed",
            "result": None if old.end is None else msgspec.Raw(encode_outcome(old.end)),
            "entries": [
                entry for chunk in old.chunks for entry in msgspec.json.decode(chunk, type=list[msgspec.Raw])
            ],
        }
        (tmp_path / path.name).write_bytes(msgspec.json.encode(document))
    found = replay(golden, tmp_path)
    assert [Path(each.path).name for each in found] == [path.name for path in FILES]
    assert [each for each in found if each.difference is not None] == []


async def cleans_up(ctx: Context, n: int) -> None:
    try:
        await ctx.awakeable(int)
    except Cancelled:
        await ctx.run("undo", act, "undo")
        raise


@pytest.mark.parametrize("verb", ["cancel", "kill"])
def test_one_that_was_cancelled_or_killed_is_repeated(tmp_path: Path, verb: str) -> None:
    path = recorded(tmp_path, cleans_up, act_on=lambda process, id_: getattr(process.api, verb)(id_))
    assert replayed(path, cleans_up).difference is None


async def test_it_works_within_a_running_loop(tmp_path: Path) -> None:
    path = await asyncio.to_thread(recorded, tmp_path, finished)
    assert replayed(path, finished).difference is None


# ── The code has changed ────────────────────────────────────────────────────────────────────────────


async def two_steps(ctx: Context, n: int) -> int:
    await ctx.run("one", act, "one")
    await ctx.run("two", act, "two")
    return n


async def in_another_order(ctx: Context, n: int) -> int:
    await ctx.run("two", act, "two")
    await ctx.run("one", act, "one")
    return n


async def without_the_second(ctx: Context, n: int) -> int:
    await ctx.run("one", act, "one")
    return n


async def with_a_third(ctx: Context, n: int) -> int:
    await two_steps(ctx, n)
    await ctx.run("three", act, "three")
    return n


async def with_an_awakeable(ctx: Context, n: int) -> int:
    await two_steps(ctx, n)
    return await ctx.awakeable(int)


async def with_another_result(ctx: Context, n: int) -> int:
    return await two_steps(ctx, n) + 1


async def that_fails(ctx: Context, n: int) -> int:
    await two_steps(ctx, n)
    raise TerminalError("no more", code=410)


async def that_crashes_at_the_end(ctx: Context, n: int) -> int:
    await two_steps(ctx, n)
    raise LookupError("no such order")


async def that_crashes_before(ctx: Context, n: int) -> int:
    await ctx.run("one", act, "one")
    raise LookupError("no such order")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (in_another_order, "  -    1  run 'one'\n  +       the handler asks for: run 'two'\n"),
        (without_the_second, "  -    3  run 'two'\n  +       the handler ends\n"),
        (with_a_third, "the journal ends here, the code goes on with: run 'three'"),
        (with_an_awakeable, "the journal ends here, the code goes on with: awakeable"),
        (with_another_result, "another result than its journal has:\n  - 7\n  + 8"),
        (that_fails, "another result than its journal has:\n  - 7\n  + failure 410: no more"),
        (that_crashes_at_the_end, "the journal ends here, the handler raises LookupError: no such order"),
        (that_crashes_before, "  -    3  run 'two'\n  +       the handler raises LookupError: no such order"),
    ],
)
def test_a_change_is_found_in_one_that_has_ended(tmp_path: Path, changed: Function, expected: str) -> None:
    assert expected in difference(recorded(tmp_path, two_steps), changed)
    assert done == []


async def without_the_call(ctx: Context, n: int) -> int:
    return await ctx.send(helper, 5) + 8


def test_a_call_that_was_removed_is_found(tmp_path: Path) -> None:
    assert "  -    2  call callees/helper inv_1" in difference(recorded(tmp_path, calls), without_the_call)


def test_a_handler_that_was_renamed_is_found(tmp_path: Path) -> None:
    [found] = replay(app_of(other=finished), recorded(tmp_path, finished))
    assert found.difference == "service 'work' has no handler 'handler'; it has: other"


async def in_text(ctx: Context, n: str) -> None: ...


def test_an_input_that_is_not_accepted_any_more_is_found(tmp_path: Path) -> None:
    assert "does not fit" in difference(recorded(tmp_path, two_steps), in_text)


def test_of_long_results_the_part_that_differs_is_shown(tmp_path: Path) -> None:
    async def long(ctx: Context, n: int) -> str:
        return "x" * 1000 + "old"

    async def changed(ctx: Context, n: int) -> str:
        return "x" * 1000 + "new"

    [_, then, now] = difference(recorded(tmp_path, long), changed).splitlines()
    assert (then, now) == (f'  - …{"x" * 30}old"', f'  + …{"x" * 30}new"')


async def asks_more(ctx: Context, n: int) -> Any:
    asked = ctx.awakeable(int, timeout=timedelta(days=60))
    ctx.publish("questions", f"what is {n}?", awakeable=asked)
    ctx.publish("notices", "asked")
    answer = await asked
    await ctx.run("after", act, "after")
    return answer


async def forgets_to_ask(ctx: Context, n: int) -> Any:
    ctx.publish("questions", n, awakeable=ctx.awakeable(int))
    return n


async def sleeps_instead(ctx: Context, n: int) -> Any:
    ctx.publish("questions", n, awakeable=ctx.awakeable(int))
    await ctx.sleep(timedelta(days=1))


async def calls_instead(ctx: Context, n: int) -> Any:
    ctx.publish("questions", n, awakeable=ctx.awakeable(int))
    return await ctx.call(helper, n)


async def crashes_instead(ctx: Context, n: int) -> Any:
    ctx.publish("questions", n, awakeable=ctx.awakeable(int))
    raise LookupError("no such order")


def test_what_comes_where_an_open_one_waits_may_change(tmp_path: Path) -> None:
    assert replayed(recorded(tmp_path, is_open, status="suspended"), asks_more).difference is None


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (forgets_to_ask, "; the handler ends"),
        (sleeps_instead, "; the handler waits for: sleep"),
        (calls_instead, "; the handler waits for: call callees/helper"),
        (crashes_instead, "the whole journal is repeated, and then the handler raises LookupError"),
    ],
)
def test_an_open_one_must_still_wait_for_what_it_waits_for(
    tmp_path: Path, changed: Function, expected: str
) -> None:
    found = difference(recorded(tmp_path, is_open, status="suspended"), changed)
    assert found.endswith(expected) or expected in found
    if "; " in expected:
        assert found.startswith("the invocation waits here for: awakeable prom_1")


def test_one_that_was_about_to_run_may_end(tmp_path: Path) -> None:
    path = recorded(tmp_path, is_open, status="suspended")
    document = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(document | {"status": "pending"}))
    assert replayed(path, forgets_to_ask).difference is None


async def awaits_asyncio(ctx: Context, n: int) -> int:
    await ctx.run("one", act, "one")
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(1000)
    await ctx.run("two", act, "two")
    return n


def test_what_awaits_asyncio_is_not_decided(tmp_path: Path) -> None:
    found = replayed(recorded(tmp_path, two_steps), awaits_asyncio)
    assert not found.is_decided
    assert "awaits something of asyncio's own" in str(found.difference)


# ── Files ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff", "not a journal as `awakeables show ID --journal` prints it"),
        (b"[]", "not a journal as"),
        (b"{}", "missing required field `format`"),
        (b'{"format":1}', "missing required field `app`"),
        (b'{"format":0}', "the format 0, and this release reads the format 1"),
        (b'{"format":2,"entries":{}}', "the format 2, and this release reads the format 1"),
    ],
)
def test_a_file_that_is_no_journal_is_named_with_why(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    [found] = replay(app_of(), tmp_path)
    assert (found.is_decided, found.invocation_id) == (False, "")
    assert expected in str(found.difference)
    assert "\n" not in str(found.difference)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_journal_may_be_written_as_powershell_does(tmp_path: Path, encoding: str) -> None:
    path = recorded(tmp_path, two_steps)
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + path.read_text()).encode(encoding))
    assert replayed(path, two_steps).difference is None
    path.write_bytes(path.read_bytes()[:-1])
    assert not replayed(path, two_steps).is_decided


def test_entries_of_another_release_and_a_part_of_a_journal_are_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path, two_steps)
    document = msgspec.json.decode(path.read_bytes())
    for entries, expected in (
        ([*document["entries"], {"k": "telepathy"}], "Invalid value 'telepathy'"),
        (document["entries"][1:], "its first entry is not the input"),
        ([], "its first entry is not the input"),
    ):
        path.write_bytes(msgspec.json.encode(document | {"entries": entries}))
        assert expected in str(replayed(path, two_steps).difference)


def test_what_is_not_there_and_a_folder_without_journals_are_not_ok(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    found = replay(app_of(), [missing, str(tmp_path)])
    assert [(each.path, each.difference, each.is_decided) for each in found] == [
        (str(missing), "can't be read: No such file or directory", False),
        (str(tmp_path), "the folder has no journals (*.json)", False),
    ]
