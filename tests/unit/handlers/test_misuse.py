"""What a handler hands in that can't be meant is refused at the call, in words that say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context, TerminalError, Worker
from awakeables.errors import DeclarationError
from awakeables.handlers.publishing import MAX_PUBLISH_BYTES
from awakeables.handlers.retry import RetryPolicy
from awakeables.testing import Paused
from support.ids import new_id
from unit.handlers.conftest import Runs
from unit.handlers.shapes import Backwards

TEN_MB = "x" * 10 * 1024 * 1024
ONCE = RetryPolicy(max_attempts=1)
CALLED = object()

Verb = Callable[[Any], Any]

MISUSES: dict[str, tuple[Verb, str]] = {
    "a serde without verbs": (
        lambda ctx: ctx.awakeable(serde=object()),
        r"is not a serde: pass an object",
    ),
    "a serde's class": (lambda ctx: ctx.awakeable(serde=Backwards), r"is not a serde: pass an object"),
    "a time-out of a number": (lambda ctx: ctx.awakeable(timeout=5), "timeout must be a timedelta, not 5"),
    "a sleep of a number": (lambda ctx: ctx.sleep(5), "must be a timedelta, not 5"),
    "a topic that can't be": (
        lambda ctx: ctx.publish("a b/c", 1),
        r"publish to 'a b/c': invalid topic name",
    ),
    "no topic": (lambda ctx: ctx.publish(None, 1), "publish to None: invalid topic name"),
    "a topic that is no UTF-8": (lambda ctx: ctx.publish("\ud800", 1), "invalid topic name"),
    "a payload of 10 MB": (
        lambda ctx: ctx.publish("t", TEN_MB),
        r"have 10,485,762 bytes, and at most 1,000,000",
    ),
    "a key of 10 MB": (lambda ctx: ctx.publish("t", 1, key=TEN_MB), r"'t': key, payload and headers have"),
    "a header of 10 MB": (lambda ctx: ctx.publish("t", 1, headers={"a": TEN_MB}), "publish a reference"),
    "a key that is a number": (
        lambda ctx: ctx.publish("t", 1, key=5),
        "the key must be a string or bytes, not int",
    ),
    "a header without a value": (
        lambda ctx: ctx.publish("t", 1, headers={"a": None}),
        "header 'a' must be a string or bytes, not NoneType",
    ),
    "a header without a name": (
        lambda ctx: ctx.publish("t", 1, headers={1: "a"}),
        "name must be a string, not 1",
    ),
    "headers in a list": (
        lambda ctx: ctx.publish("t", 1, headers=[("a", "b")]),
        "must be a mapping of names",
    ),
    "a task's name that is no text": (
        lambda ctx: ctx.publish("t", 1, task=5),
        "task's name must be a string, not 5",
    ),
    "an awakeable's ID": (
        lambda ctx: ctx.publish("t", 1, awakeable=ctx.awakeable().id),
        r"awakeable= must be what ctx\.awakeable\(\) returned, not 'prom_1",
    ),
    "an action that was called": (
        lambda ctx: ctx.run("pay", CALLED),
        r"ctx\.run\('pay'\): .* pass the function and its arguments, without calling it",
    ),
    "an action's name that is no text": (
        lambda ctx: ctx.run(5, print),
        "name of an action must be a string, not 5",
    ),
}


@pytest.mark.parametrize(("verb", "told"), MISUSES.values(), ids=MISUSES)
def test_invalid_arguments_are_refused_at_the_call(run: Runs, verb: Verb, told: str) -> None:
    async def handler(ctx: Context) -> None:
        verb(ctx)

    result = run(handler)
    assert result.published == []
    with pytest.raises(Paused, match=f"^HandlerMisuse: .*{told}"):
        _ = result.value


AT_ONCE = timedelta(milliseconds=100)
"""Nothing was tried again: the first pause is half a second."""

USES: dict[str, Verb] = {
    "uuid": lambda ctx: ctx.uuid(),
    "random": lambda ctx: ctx.random(),
    "now": lambda ctx: ctx.now(),
    "awakeable": lambda ctx: ctx.awakeable(),
    "publish": lambda ctx: ctx.publish("notices", 1),
    "run": lambda ctx: ctx.run("inner", print),
    "sleep": lambda ctx: ctx.sleep(timedelta(seconds=1)),
    "resolve": lambda ctx: ctx.resolve_awakeable(new_id("prom", at_ms=0, entropy=bytes(10)), 1),
    "reject": lambda ctx: ctx.reject_awakeable(new_id("prom", at_ms=0, entropy=bytes(10)), "no"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("kind", ["coroutine", "plain"])
def test_the_context_is_refused_inside_an_action(run: Runs, use: Verb, kind: str) -> None:
    """What it gave would be another value after a replay, or stand in the journal once only."""

    async def handler(ctx: Context) -> str:
        async def act() -> str:
            return str(use(ctx))

        return await ctx.run("act", act if kind == "coroutine" else lambda: str(use(ctx)))

    result = run(handler)
    assert (result.published, result.journal) == ([], ["input of testing/handler", "run 'act'"])
    assert result.duration < AT_ONCE
    with pytest.raises(
        Paused, match=r"^HandlerMisuse: .*inside an action of ctx\.run\('act'\).*pass the result"
    ):
        _ = result.value


@pytest.mark.parametrize("bounded", [False, True], ids=["directly", "wait_for"])
def test_nothing_durable_is_awaited_inside_an_action(run: Runs, bounded: bool) -> None:
    async def handler(ctx: Context) -> Any:
        answer = ctx.awakeable()

        async def act() -> Any:
            return await (asyncio.wait_for(answer, 1) if bounded else answer)

        return await ctx.run("act", act)

    with pytest.raises(Paused, match=r"^HandlerMisuse: .*inside an action of ctx\.run\('act'\)"):
        _ = run(handler).value


@pytest.mark.parametrize("retry", [None, RetryPolicy()], ids=["plain", "with-a-policy"])
@pytest.mark.parametrize("then", ["is raised", "is swallowed", "becomes terminal"])
def test_no_action_can_use_the_context(run: Runs, retry: RetryPolicy | None, then: str) -> None:
    calls: list[int] = []

    async def handler(ctx: Context) -> Any:
        def act() -> Any:
            calls.append(1)
            try:
                ctx.uuid()
                ctx.publish("notices", 1)
            except Exception as error:
                if then == "becomes terminal":
                    raise TerminalError("no") from error
                if then == "is raised":
                    raise
            try:
                ctx.uuid()
            except Exception:
                return "done"

        return await ctx.run("act", act, retry=retry)

    result = run(handler)
    with pytest.raises(Paused, match=r"^HandlerMisuse: .*inside an action"):
        _ = result.value
    assert len(calls) == 1
    assert result.duration < AT_ONCE


def test_an_action_may_ask_for_its_request_and_write_to_the_log(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        def act() -> str:
            ctx.log.info("acting")
            return ctx.request.invocation_id

        told = await ctx.run("act", act)
        ctx.uuid()
        return told

    assert run(handler).value.startswith("inv_")


def test_key_payload_and_headers_fit_a_record_together(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("notices", b"x" * (MAX_PUBLISH_BYTES - 4), key="k", headers={"a": b"12"})

    assert len(run(handler).published) == 1


@pytest.mark.parametrize("given", [5, None, b"prom_1"], ids=str)
@pytest.mark.parametrize("verb", ["resolve_awakeable", "reject_awakeable"])
def test_an_id_that_is_not_text_is_a_terminal_error(run: Runs, verb: str, given: Any) -> None:
    async def handler(ctx: Context) -> None:
        await getattr(ctx, verb)(given, "x")

    with pytest.raises(TerminalError, match="is not an awakeable ID: it is not a string") as caught:
        _ = run(handler).value
    assert caught.value.code == 400


async def publishes(ctx: Context, value: Any) -> None:
    ctx.publish("notices", value)


async def resolves(ctx: Context, value: Any) -> None:
    await ctx.resolve_awakeable(ctx.awakeable().id, value)


async def acts(ctx: Context, value: Any) -> None:
    await ctx.run("measure", lambda: value)


async def returns(ctx: Context, value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("verb", "place"),
    [
        (publishes, "ctx.publish to 'notices' can't be encoded"),
        (resolves, "ctx.resolve_awakeable: the value can't be encoded"),
        (acts, "run 'measure' returned .*"),
        (returns, "handler handler returned .*"),
    ],
)
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), r"it is not valid JSON .*; NaN and Infinity are not"),
        ({1, object()}, "Unable to serialize unknown type: <class 'object'>"),
        ("\ud800", "surrogates not allowed"),
    ],
    ids=["nan", "object", "surrogate"],
)
def test_a_value_that_json_can_t_represent_is_an_error_that_says_where(
    run: Runs, verb: Callable[[Context, Any], Awaitable[Any]], place: str, value: Any, why: str
) -> None:
    async def handler(ctx: Context) -> Any:
        return await verb(ctx, value)

    with pytest.raises(Paused, match=f"{place}: .*{why}"):
        _ = run(handler, retry=ONCE).value


def test_nan_is_not_written_as_null(run: Runs) -> None:
    """Pydantic would write it so for a result that is annotated."""

    async def handler(ctx: Context) -> list[float]:
        return [float("nan")]

    with pytest.raises(Paused, match="NaN and Infinity are not"):
        _ = run(handler, retry=ONCE).value


@pytest.mark.parametrize("code", ["409", 4.5, True], ids=str)
def test_a_code_that_is_not_an_integer_is_mentioned_in_the_reason(run: Runs, code: Any) -> None:
    """A row with it could not be read again."""

    async def handler(ctx: Context) -> None:
        try:
            await ctx.run("pay", refuse)
        except TerminalError as error:
            raise TerminalError(f"told {error.code}: {error.reason}", code=code) from error

    def refuse() -> None:
        raise TerminalError("no", code=code)

    told = rf"its code {code!r} is not an integer"
    with pytest.raises(TerminalError, match=rf"^told 500: no \({told}\) \({told}\)$") as caught:
        _ = run(handler).value
    assert caught.value.code == 500


def test_a_worker_s_invalid_serde_is_refused_when_it_is_declared() -> None:
    async def pack(task: Any) -> Any: ...

    with pytest.raises(DeclarationError, match=r"task tasks/\* \(pack\): serde=.* is not a serde"):
        Worker("packer").task("tasks", serde=object())(pack)  # type: ignore[arg-type]
