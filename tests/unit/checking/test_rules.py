"""Each rule: what it warns of, and what it leaves alone."""

from __future__ import annotations

import textwrap

import pytest

from awakeables.checking.rules import AWAITED, AWAITED_OF_AWAKEABLES, AWAITED_OF_PROMISES
from unit.checking.conftest import HEADER, Checking, rules

HANDLER = """
items = VirtualObject("items")
VERDICT = object()

@service.handler()
async def other(ctx: Context) -> None: ...

def ask(ctx: Context, item: str) -> object:
    return ctx.awakeable(str)

def pay(*given: object) -> str:
    return time.ctime() + str(given)

async def step(ctx: Context, name: str, action: object) -> object:
    return await ctx.run(name, action)

def blocking(function):
    @functools.wraps(function)
    def runs(*given: object) -> object:
        return asyncio.run(function(*given))
    return runs

@blocking
async def scheduled(name: str) -> None: ...

def partner(ctx: Context) -> str:
    return str(ctx.uuid())

@service.handler()
async def handle(ctx: Context, order: str) -> None:
"""

BAD = [
    *[
        ("clock", call)
        for call in (
            "time.time()",
            "time.time_ns()",
            "time.perf_counter()",
            "clock()",
            "datetime.now(dt.UTC)",
            "dt.datetime.now(dt.UTC)",
            "datetime.utcnow()",
            "datetime.today()",
            "date.today()",
            "dt.date.today()",
            "[clock() for _ in order]",
            "ctx.publish('t', order, headers={'at': str(clock())})",
            "ctx.map(lambda each: ctx.call(other, each, idempotency_key=str(clock())), order)",
        )
    ],
    *[
        ("chance", call)
        for call in (
            "random.random()",
            "random.choice(order)",
            "random.Random()",
            "secrets.token_hex()",
            "uuid.uuid1()",
            "uuid.uuid4()",
            "os.urandom(8)",
        )
    ],
    ("sleep", "await asyncio.sleep(1)"),
    ("sleep", "await anyio.sleep(1)"),
    ("sleep", "time.sleep(1)"),
    *[
        ("asyncio", code)
        for code in (
            "await asyncio.gather(ctx.sleep(SECOND))",
            "await both(ctx.sleep(SECOND))",
            "await asyncio.wait([ctx.sleep(SECOND)])",
            "await asyncio.wait_for(ctx.sleep(SECOND), 1)",
            "asyncio.as_completed([ctx.sleep(SECOND)])",
            "asyncio.create_task(ctx.sleep(SECOND))",
            "asyncio.ensure_future(ctx.sleep(SECOND))",
            "await asyncio.shield(ctx.sleep(SECOND))",
            "await asyncio.to_thread(pay)",
            "async with asyncio.timeout(1): ...",
            "async with asyncio.TaskGroup(): ...",
            "async with anyio.create_task_group(): ...",
            "with anyio.fail_after(1): ...",
        )
    ],
    *[
        ("set-order", code)
        for code in (
            "for each in {order}: ctx.publish('t', each)",
            "for each in {part for part in order}: ctx.publish('t', each)",
            "for each in set(order): ctx.publish('t', each)",
            "seen = set(order)\nfor each in seen: ctx.publish('t', each)",
            "seen = set(order)\nseen |= {'a'}\nfor each in seen: ctx.publish('t', each)",
            "seen = set(order)\nfor each in seen - {'a'}: ctx.publish('t', each)",
            "seen: set[str] = await ctx.run('seen', pay)\nfor each in seen: ctx.publish('t', each)",
            "def send(parts: frozenset[str]):\n    return [ctx.publish('t', each) for each in parts]",
            "if seen := set(order): first, *rest = list(seen)",
            "seen = set(order)\nothers = seen.union('a')\ntuple(others)",
            "await ctx.gather(*[ctx.call(other, each) for each in set(order)])",
            "await ctx.gather(*{ctx.sleep(SECOND), ctx.sleep(SECOND)})",
            "ctx.map(lambda each: ctx.call(other, each), set(order))",
            "ctx.publish('t', ','.join(set(order)))",
            "max([await ctx.run('price', pay, each) for each in set(order)])",
            "one, two = {}, {}\nfor each in one.keys() - two.keys(): ctx.publish('t', each)",
            "one = {}\nfor each in one.items() | order: ctx.publish('t', each)",
            "seen = set(order)\nctx.publish('t', seen.pop())",
            "first, second = set(order)",
            "text = ''\nfor each in set(order): text += each",
            "seen = set()\nfor each in set(order): seen.add(await ctx.run('pay', pay))",
            "n = 0\nfor each in set(order):\n    if ctx.publish('t', each): n += 1",
            "found = []\nfor each in set(order): found.append(each)",
        )
    ],
    *[
        ("swallow", f"try:\n    await ctx.sleep(SECOND)\n{handler}")
        for handler in (
            "except: pass",
            "except BaseException: pass",
            "except BaseException as error: raise ValueError from error",
            "except asyncio.CancelledError: pass",
            "except (ValueError, BaseException): pass",
            "except awakeables.Suspended: pass",
        )
    ],
    ("swallow", "try:\n    await ctx.sleep(SECOND)\nfinally:\n    return"),
    ("swallow", "try: [each async for each in order]\nexcept: pass"),
    ("swallow", "with contextlib.suppress(BaseException): await ctx.sleep(SECOND)"),
    *[
        ("heartbeat", f"await ctx.awakeable(str, timeout={timeout}, heartbeat_timeout={silence})")
        for timeout, silence in (
            ("timedelta(minutes=1)", "timedelta(hours=1)"),
            ("timedelta(1)", "timedelta(hours=24)"),
        )
    ],
    *[
        ("ctx-in-action", code)
        for code in (
            "await ctx.run('pay', lambda: pay(ctx.uuid()))",
            "await ctx.run('pay', action=lambda: pay(ctx.uuid()))",
            "await ctx.run('pay', functools.partial(lambda key: pay(key, ctx.now()), 1))",
            "def paid(): return pay(ctx.now())\nawait ctx.run('pay', paid)",
            "async def paid(): return await ctx.sleep(SECOND)\nawait ctx.run('pay', paid)",
            "await ctx.run('pay', partner, ctx)",
            "await ctx.run('pay', functools.partial(partner, ctx))",
            "await ctx.run('pay', lambda: partner(ctx))",
            "async with ctx.saga() as saga: saga.undo('pay', lambda: pay(ctx.uuid()))",
        )
    ],
    *[
        ("unawaited", code)
        for code in (
            "ctx.run('pay', pay)",
            "ctx.sleep(SECOND)",
            "ctx.call(other)",
            "ctx.attach(order)",
            "ctx.gather(ctx.sleep(SECOND))",
            "ctx.resolve_awakeable(order)",
            "ctx.promise(VERDICT).resolve(True)",
            "done = ctx.awakeable(str)\ndone.progress(int)",
            "ctx.as_completed([ctx.sleep(SECOND)])",
            "ctx.timeout(SECOND)",
            "ctx.shield()",
            "ctx.saga()",
            "step(ctx, 'pay', pay)",
            "other(ctx)",
            "async def ship(): await ctx.sleep(SECOND)\nship()",
        )
    ],
    *[
        ("blocking-io", code)
        for code in (
            "open(order).read()",
            "with open(order): ...",
            "httpx.get(order)",
            "async with httpx.AsyncClient(): ...",
            "urllib.request.urlopen(order)",
            "subprocess.run([order])",
            "import requests\nrequests.get(order)",
            "from urllib.request import urlopen\nurlopen(order)",
            "from pathlib import Path\nPath(order).read_text()",
            "order.write_text('x')",
        )
    ],
]

GOOD = [
    *[
        ("clock", code)
        for code in (
            "ctx.now()",
            "await ctx.run('now', time.time)",
            "await ctx.run('now', lambda: time.time())",
            "await ctx.run('now', lambda at: at + clock(), 1)",
            "time.strftime('%Y', ctx.now().timetuple())",
            "datetime.fromisoformat(order)",
            "time = ctx\ntime.time()",
            "def now(): return clock()\nawait ctx.run('now', now)",
            "def now(): return clock()\nawait ctx.run('now', lambda: now())",
            "def now(): return clock()\nawait ctx.run('now', pay, now)",
            "async with ctx.saga() as saga: saga.undo('now', lambda: clock())",
            "now = lambda: clock()\nawait ctx.run('now', now)",
            "now = lambda: clock()\nsame = now\nawait ctx.run('now', same)",
            "def now(): return clock()\nsame = functools.partial(now)\nawait ctx.run('now', same)",
            "def now(): return clock()\nfor n, each in enumerate([now, now]): await ctx.run(f'{n}', each)",
            "now = {'a': lambda: clock()}\nawait ctx.gather(*(ctx.run(n, f) for n, f in now.items()))",
            "await step(ctx, 'now', lambda: clock())",
            "await step(ctx, action=lambda: clock(), name='now')",
        )
    ],
    ("chance", "ctx.random().choice(order), ctx.uuid(), uuid.UUID(order), uuid.uuid5(ctx.uuid(), order)"),
    ("chance", "random.Random(7).random()"),
    ("chance", "secrets.compare_digest(order, order)"),
    ("chance", "await ctx.run('token', secrets.token_hex)"),
    ("sleep", "await ctx.sleep(SECOND)"),
    ("sleep", "await ctx.run('wait', asyncio.sleep, 1)"),
    ("asyncio", "await ctx.gather(ctx.sleep(SECOND))"),
    ("asyncio", "async def fetch():\n    async with asyncio.timeout(1): ...\nawait ctx.run('fetch', fetch)"),
    *[
        ("set-order", code)
        for code in (
            "for each in sorted(set(order)): ctx.publish('t', each)",
            "for each in sorted({part for part in set(order)}): ctx.publish('t', each)",
            "for each in dict.fromkeys(order): ctx.publish('t', each)",
            "if order in {'a', 'b'}: ctx.publish('t', order)",
            "ctx.publish('t', sum(len(each) for each in set(order)))",
            "if any(each in order for each in {'a', 'b'}): ctx.publish('t', order)",
            "seen = set(order)\nctx.publish('t', len(seen))",
            "seen = set(order)\nseen = sorted(seen)\nfor each in seen: ctx.publish('t', each)",
            "await ctx.run('pay', pay, set(order))",
            "merged = {*set(order), 'a'}",
            "ctx.publish('t', sorted([each * 2 for each in set(order)]))",
            "ctx.publish('t', len({each: 1 for each in set(order)}))",
            "n = 0\nfor each in set(order): n += len(each)",
            "n = 0\nfor each in set(order):\n    if each: n += 1\n    else: pass",
            "seen = set()\nfor each in set(order): seen.add(each)",
            "first, second = sorted(set(order))",
            "found = list(order)\nctx.publish('t', found.pop())",
            "seen = set(order)\nfor each in {}.keys(): ctx.publish('t', each)",
        )
    ],
    *[
        ("swallow", f"try:\n    await ctx.sleep(SECOND)\n{handler}")
        for handler in (
            "except Exception: pass",
            "except TerminalError: pass",
            "except BaseException: raise",
            "except BaseException as error:\n    ctx.log.info('x')\n    raise error",
            "finally: pass",
        )
    ],
    ("swallow", "with contextlib.suppress(ValueError): ..."),
    ("swallow", "with contextlib.suppress(BaseException): int(order)"),
    ("swallow", "try: int(order)\nexcept: order = ''"),
    ("swallow", "try:\n    def later(): yield\nexcept: pass"),
    ("swallow", "try: int(order)\nfinally: return"),
    ("heartbeat", "await ctx.awakeable(str, timeout=timedelta(1), heartbeat_timeout=timedelta(minutes=2))"),
    ("heartbeat", "await ctx.awakeable(str, heartbeat_timeout=timedelta(minutes=2))"),
    ("heartbeat", "await ctx.awakeable(str, timeout=SECOND, heartbeat_timeout=timedelta(minutes=2))"),
    *[
        ("ctx-in-action", code)
        for code in (
            "await ctx.run('pay', pay, ctx.uuid())",
            "await ctx.run('pay', lambda key=ctx.uuid(): pay(key))",
            "await ctx.run('pay', functools.partial(pay, ctx.uuid()))",
            "await ctx.run('pay', lambda: (ctx.log.info('paid'), ctx.request.headers))",
            "await ctx.gather(*[ctx.run('pay', lambda: pay(each)) for each in order])",
            "paid = await ctx.gather(*map(lambda each: ctx.sleep(each), order))\n"
            "await ctx.run('pay', lambda: pay(paid))",
        )
    ],
    *[
        ("unawaited", code)
        for code in (
            "await ctx.run('pay', pay)",
            "paid = ctx.run('pay', pay)\nawait paid",
            "ctx.send(other)",
            "ctx.publish('t', order)",
            "ctx.now()",
            "await ctx.promise(VERDICT).resolve(True)",
            "done = ctx.awakeable(str)\nawait done.progress(int)",
            "async for each in ctx.as_completed([ctx.sleep(SECOND)]): await each",
            "async with ctx.timeout(SECOND): await ctx.sleep(SECOND)",
            "await step(ctx, 'pay', pay)",
            "shipped = step(ctx, 'pay', pay)\nawait ctx.gather(shipped)",
            "def ship(): ...\nship()",
            "scheduled('x')",
            "def step(name): ...\nstep('pay')",
            "for other in order: other(1)",
            "from os import getcwd as other\nother(1)",
            "class Job:\n    async def go(self): ...\ndef go(): ...\ngo()",
            "@blocking\nasync def ship(): ...\nship()",
            "async def ship(): ...\nship = pay\nship()",
            "partner(ctx)",
        )
    ],
    ("blocking-io", "await ctx.run('read', open, order)"),
    ("blocking-io", "await ctx.run('read', lambda: open(order).read())"),
    ("blocking-io", "httpx.URL(order)"),
    ("blocking-io", "open = pay\nopen(order)"),
]


@pytest.mark.parametrize(("rule", "body"), BAD)
def test_a_handler_is_warned_of(checked: Checking, rule: str, body: str) -> None:
    assert rules(checked(HANDLER + textwrap.indent(body, "    "))) == [rule]


@pytest.mark.parametrize(("rule", "body"), GOOD)
def test_nothing_is_said_of_code_that_is_right(checked: Checking, rule: str, body: str) -> None:
    assert rules(checked(HANDLER + textwrap.indent(body, "    "))) == [], rule


def test_a_finding_names_its_place_what_happens_and_the_right_call(checked: Checking) -> None:
    [found] = checked(HANDLER + "    at = datetime.now()").findings
    assert found.path.endswith(".py")
    assert found.text == "datetime.datetime.now gives another time in each replay; use ctx.now()"


CARTS = """
carts = VirtualObject("carts")

@carts.handler()
async def check_out(ctx: ObjectContext) -> str:
    return await ask_partner(ctx)

async def ask_partner(ctx: ObjectContext) -> str:
    return await ctx.awakeable(str)

async def settle(ctx: Context, awakeable_id: str) -> None:
    await ctx.resolve_awakeable(awakeable_id, "yes")

@carts.{declared}()
async def paid(ctx: Context, awakeable_id: str) -> None:
    await settle(ctx, awakeable_id)
"""


def test_an_exclusive_handler_that_settles_what_another_waits_for_is_warned_of(
    checked_module: Checking,
) -> None:
    def found(text: str, objects: str = "carts") -> list[str]:
        end = f'app = App("shop", services=[service, {objects}])\n'
        return [each.text for each in checked_module(HEADER + text + end).findings]

    assert found(CARTS.format(declared="handler")) == [
        "paid settles awakeables, but can't run while check_out, which is exclusive as well, waits for one "
        "in the same key; if they are for that, declare it with `@carts.shared()`"
    ]
    assert found(CARTS.format(declared="shared")) == []
    of_another = CARTS.format(declared="handler").replace(
        "@carts.handler()\nasync def paid", "@other.handler()\nasync def paid"
    )
    assert found('other = VirtualObject("other")\n' + of_another, "carts, other") == []


def test_what_must_be_awaited_is_read_off_the_contexts() -> None:
    combinators = {"gather", "race", "any", "quorum", "select"}
    settling = {"resolve_awakeable", "reject_awakeable"}
    assert combinators | settling | {"run", "call", "attach", "sleep", "get", "keys", "promise"} == AWAITED
    assert {"resolve", "reject", "peek"} == AWAITED_OF_PROMISES
    assert {"progress"} == AWAITED_OF_AWAKEABLES
