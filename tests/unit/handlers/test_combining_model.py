"""Combinators nested at random, held against a model: the instants at which parts end decide all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from awakeables import Context, Durable, QuorumFailed, Reject, TerminalError
from awakeables.handlers.stateless import StatelessAttempts
from awakeables.testing import Answer, run, simulated

LEAVES = 6


@dataclass(frozen=True)
class Node:
    """A combinator and its parts; a part that is a number is that leaf."""

    verb: str
    parts: tuple[Tree, ...]
    needed: int = 1


Tree: TypeAlias = Node | int


def nodes(parts: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    several = st.lists(parts, min_size=1, max_size=4).map(tuple)
    simple = st.builds(Node, st.sampled_from(["gather", "settled", "race", "any"]), several)
    return simple | several.flatmap(
        lambda some: st.builds(Node, st.just("quorum"), st.just(some), st.integers(1, len(set(some))))
    )


def numbered(tree: Tree, numbers: Iterator[int]) -> Tree:
    """The same tree with a leaf of its own at each place."""
    if isinstance(tree, int):
        return next(numbers)
    return Node(tree.verb, tuple(numbered(part, numbers) for part in tree.parts), tree.needed)


def with_branches(parts: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return nodes(parts) | parts.map(lambda part: Node("branch", (part,)))


def size_of(tree: Tree) -> int:
    return 1 if isinstance(tree, int) else sum(map(size_of, tree.parts))


leaf: st.SearchStrategy[Tree] = st.integers(0, LEAVES - 1)
branched = (
    st.recursive(st.just(0), with_branches, max_leaves=LEAVES)
    .filter(lambda tree: isinstance(tree, Node) and size_of(tree) <= LEAVES)
    .map(lambda tree: numbered(tree, count()))
)
trees = st.recursive(leaf, nodes, max_leaves=12).filter(lambda tree: isinstance(tree, Node))


@dataclass(frozen=True)
class End:
    """When something is over, and how: its value, or the text of its failure."""

    at: int
    ok: bool
    value: Any


def end_of(tree: Tree, leaves: list[End]) -> End:
    """The model."""
    if isinstance(tree, int):
        return leaves[tree]
    ends = [end_of(part, leaves) for part in tree.parts]
    # A future that is given twice, and equal combinations of one future, are two parts but for a quorum.
    order = sorted(range(len(ends)), key=lambda place: (ends[place].at, place))
    failures = [place for place in order if not ends[place].ok]
    match tree.verb:
        case "branch":
            return ends[0]
        case "gather":
            if failures:
                return ends[failures[0]]
            return End(max(end.at for end in ends), True, [end.value for end in ends])
        case "settled":
            return End(max(end.at for end in ends), True, [end.value for end in ends])
        case "race":
            return ends[order[0]]
        case verb:
            needed = 1 if verb == "any" else tree.needed
            unique = [
                place
                for place in order
                if not (isinstance(tree.parts[place], int) and tree.parts.index(tree.parts[place]) != place)
            ]
            successes: list[int] = []
            left = len(unique)
            for place in unique:
                left -= 1
                if ends[place].ok:
                    successes.append(place)
                if len(successes) == needed:
                    values = [ends[each].value for each in successes]
                    return End(ends[place].at, True, values[0] if verb == "any" else values)
                if len(successes) + left < needed:
                    return End(ends[place].at, False, "quorum")
            raise AssertionError(tree)


def combined(ctx: Context, tree: Tree, leaves: list[Any]) -> Durable[Any]:
    """A future; or a coroutine, which can be combined like one."""
    if isinstance(tree, int):
        found: Durable[Any] = leaves[tree]
        return found
    if tree.verb == "branch":
        return awaited(ctx, tree.parts[0], leaves)  # type: ignore[return-value]
    parts = [combined(ctx, part, leaves) for part in tree.parts]
    match tree.verb:
        case "gather":
            return ctx.gather(*parts)
        case "settled":
            return ctx.gather(*parts, return_exceptions=True)
        case "race":
            return ctx.race(*parts)
        case "any":
            return ctx.any(*parts)
        case _:
            return ctx.quorum(tree.needed, parts)


async def awaited(ctx: Context, tree: Tree, leaves: list[Any]) -> Any:
    try:
        return await combined(ctx, tree, leaves)
    finally:
        ctx.now()  # an entry of the branch's own


def plain(value: Any) -> Any:
    if isinstance(value, QuorumFailed):
        return "quorum"
    if isinstance(value, TerminalError):
        return value.reason
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("attempts", ["always-suspend", "live", "stateless"])
@given(
    tree=trees,
    when=st.permutations(range(1, LEAVES + 1)),
    fails=st.lists(st.booleans(), min_size=LEAVES, max_size=LEAVES),
    late=st.integers(0, LEAVES),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_combination_ends_as_the_model_says(
    attempts: str, tree: Tree, when: list[int], fails: list[bool], late: int
) -> None:
    check(attempts, tree, when, fails, late)


@pytest.mark.parametrize("attempts", ["always-suspend", "live", "stateless"])
@given(
    tree=branched,
    when=st.permutations(range(1, LEAVES + 1)),
    fails=st.lists(st.booleans(), min_size=LEAVES, max_size=LEAVES),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_branches_within_combinations_change_nothing(
    attempts: str, tree: Tree, when: list[int], fails: list[bool]
) -> None:
    check(attempts, tree, when, fails, 0)


def check(attempts: str, tree: Tree, when: list[int], fails: list[bool], late: int) -> None:
    leaves = [
        End(at, not failed, f"no {n}" if failed else n)
        for n, (at, failed) in enumerate(zip(when, fails, strict=True))
    ]

    async def handler(ctx: Context) -> list[Any]:
        parts = []
        for n in range(LEAVES):
            awakeable = ctx.awakeable(int)
            ctx.publish("tasks", n, awakeable=awakeable, task=f"leaf-{n}")
            parts.append(awakeable.promise)
        # Some of them are over before the handler waits for any.
        await ctx.sleep(timedelta(seconds=late))
        future = combined(ctx, tree, parts)
        if not isinstance(future, Durable):  # a branch by itself
            future = ctx.race(future)
        ok = True
        try:
            value = plain(await future)
        except TerminalError as error:
            ok, value = False, plain(error)
        assert future.done
        assert (future.exception() is None) == ok
        return [ok, value]

    answers = {
        f"leaf-{n}": Answer(Reject(end.value) if not end.ok else end.value, after=timedelta(seconds=end.at))
        for n, end in enumerate(leaves)
    }
    with pytest.MonkeyPatch.context() as patch:
        if attempts == "stateless":
            patch.setattr(simulated, "LocalAttempts", StatelessAttempts)
        told = run(handler, answers=answers, suspend=attempts == "always-suspend")
    expected = end_of(tree, leaves)
    assert told.value == [expected.ok, expected.value]
    assert told.duration <= timedelta(seconds=max(late, LEAVES) + 2)
