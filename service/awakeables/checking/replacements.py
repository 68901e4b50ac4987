"""Calls that don't belong in a handler's own code, and what to call instead."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from awakeables.checking.findings import RuleName


@dataclass(frozen=True, slots=True)
class Replacement:
    """Why a call is wrong in a handler, and what to write instead."""

    rule: RuleName
    effect: str
    instead: str


_ACTION = 'await ctx.run("name", function, …)'
_OTHER_TIME = "gives another time in each replay"
_OTHER_VALUE = "gives another value in each replay"
_NO_REPLAY = "can't be replayed"
_REPEATED = "is done again in each replay, and may block all other handlers"

_CLOCK = Replacement("clock", _OTHER_TIME, "ctx.now()")
_CHANCE = Replacement("chance", _OTHER_VALUE, "ctx.random()")
_SECRET = Replacement("chance", _OTHER_VALUE, f"{_ACTION}: what ctx.random() gives is no secret")
_UUID = Replacement("chance", _OTHER_VALUE, "ctx.uuid()")
_BLOCKING_SLEEP = Replacement("sleep", "blocks all other handlers", "await ctx.sleep(…)")
_SLEEP = Replacement("sleep", "begins again after a restart", "await ctx.sleep(…)")
_TIMEOUT = Replacement("asyncio", _NO_REPLAY, "async with ctx.timeout(…)")
_SELECT = Replacement("asyncio", _NO_REPLAY, "await ctx.select(…), ctx.race(…), ctx.any(…) or ctx.gather(…)")
_GATHER = Replacement("asyncio", _NO_REPLAY, "await ctx.gather(…)")
_TASK = Replacement("asyncio", _NO_REPLAY, "await ctx.gather(…), or ctx.send(…) for a handler of its own")
_COMPLETED = Replacement("asyncio", _NO_REPLAY, "async for … in ctx.as_completed(…)")
_SHIELD = Replacement("asyncio", _NO_REPLAY, "async with ctx.shield()")
_OUTSIDE = Replacement("asyncio", "is done again in each replay", _ACTION)
_BLOCKING = Replacement("blocking-io", _REPEATED, _ACTION)

_HTTP_VERBS = ("get", "post", "put", "patch", "delete", "head", "options", "request")

REPLACEMENTS: Final[Mapping[str, Replacement]] = {
    **dict.fromkeys(
        (
            *(
                f"time.{clock}{unit}"
                for clock in ("time", "monotonic", "perf_counter")
                for unit in ("", "_ns")
            ),
            "datetime.datetime.now",
            "datetime.datetime.utcnow",
            "datetime.datetime.today",
            "datetime.date.today",
        ),
        _CLOCK,
    ),
    **dict.fromkeys((f"random.{name}" for name in random.__all__), _CHANCE),
    "os.urandom": _SECRET,
    **dict.fromkeys(
        (
            f"secrets.{name}"
            for name in ("choice", "randbelow", "randbits", "token_bytes", "token_hex", "token_urlsafe")
        ),
        _SECRET,
    ),
    **dict.fromkeys((f"uuid.uuid{version}" for version in (1, 4, 6, 7)), _UUID),
    "time.sleep": _BLOCKING_SLEEP,
    "asyncio.sleep": _SLEEP,
    "anyio.sleep": _SLEEP,
    "asyncio.gather": _GATHER,
    "asyncio.wait": _SELECT,
    "asyncio.as_completed": _COMPLETED,
    "asyncio.shield": _SHIELD,
    **dict.fromkeys(
        (
            "asyncio.wait_for",
            "asyncio.timeout",
            "asyncio.timeout_at",
            "anyio.fail_after",
            "anyio.move_on_after",
            "anyio.CancelScope",
        ),
        _TIMEOUT,
    ),
    **dict.fromkeys(
        ("asyncio.create_task", "asyncio.ensure_future", "asyncio.TaskGroup", "anyio.create_task_group"),
        _TASK,
    ),
    **dict.fromkeys(("asyncio.to_thread", "anyio.to_thread.run_sync"), _OUTSIDE),
    **dict.fromkeys(
        (
            "open",
            *(f"requests.{name}" for name in (*_HTTP_VERBS, "Session", "session")),
            *(f"httpx.{name}" for name in (*_HTTP_VERBS, "stream", "Client", "AsyncClient")),
            "urllib.request.urlopen",
            "urllib.request.urlretrieve",
            *(f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output", "Popen")),
            "subprocess.getoutput",
            "subprocess.getstatusoutput",
            "os.system",
        ),
        _BLOCKING,
    ),
}
"""By the full name of what is called."""

METHODS: Final[Mapping[str, Replacement]] = dict.fromkeys(
    ("read_text", "write_text", "read_bytes", "write_bytes"), _BLOCKING
)
"""By the name of a method, such as one of `pathlib.Path`, whatever it is called on."""
