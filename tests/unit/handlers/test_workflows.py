"""Workflows as they are declared: what can't be one says why."""

from __future__ import annotations

from typing import Any

import pytest

from awakeables import App, Context, ObjectContext, SharedContext, Workflow
from awakeables.core.ids import parse_id, promise_id
from awakeables.errors import DeclarationError


async def once(ctx: ObjectContext, name: str) -> None: ...


async def clicked(ctx: SharedContext) -> None: ...


async def writes(ctx: ObjectContext) -> None: ...


async def plain(ctx: Context) -> None: ...


def test_a_workflow_has_one_run() -> None:
    flow = Workflow("signups")
    assert flow.run()(once) is once
    assert (flow.handlers["run"].kind, flow.handlers["run"].of_workflow) == ("run", True)
    with pytest.raises(DeclarationError, match="workflow 'signups' has two handlers called 'run'"):
        flow.run()(once)


def test_a_workflow_without_a_run_is_refused_by_the_app() -> None:
    flow = Workflow("signups")
    flow.handler()(clicked)
    with pytest.raises(DeclarationError, match=r"has no run: declare one with @signups\.run\(\)"):
        App("shop", services=[flow])


@pytest.mark.parametrize("name", ["run", None])
def test_no_other_handler_is_called_run(name: str | None) -> None:
    async def run(ctx: SharedContext) -> None: ...

    with pytest.raises(DeclarationError, match="`run` is the name of its run"):
        Workflow("signups").handler(name)(run)


@pytest.mark.parametrize("function", [writes, plain])
def test_another_handler_takes_a_shared_context(function: Any) -> None:
    flow = Workflow("signups")
    if function is plain:
        flow.handler()(function)
        return
    with pytest.raises(DeclarationError, match="its first parameter must be the SharedContext"):
        flow.handler()(function)


def test_a_promise_is_declared_once_with_a_type_that_can_be_stored() -> None:
    flow = Workflow("signups")
    promise = flow.promise("verified", bool)
    assert repr(promise) == "<promise 'verified' of signups>"
    with pytest.raises(DeclarationError, match="declares the promise 'verified' twice"):
        flow.promise("verified", str)
    with pytest.raises(DeclarationError, match="a name is a string that is not empty"):
        flow.promise("", str)
    with pytest.raises(DeclarationError, match="promise 'odd' of signups"):
        flow.promise("odd", object())  # type: ignore[arg-type]


def test_a_promise_s_id_is_made_of_names_and_has_no_instant() -> None:
    one = promise_id("signups", "k", "verified")
    assert one == promise_id("signups", "k", "verified")
    assert parse_id(one, "prom") == 0
    others = {promise_id("signups", "k", "note"), promise_id("signups", "k2", "verified")}
    assert len({one, *others}) == 3
