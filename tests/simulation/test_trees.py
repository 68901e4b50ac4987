"""Random trees of calls under faults: they come to what plain Python comes to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Reject, RetryPolicy, Task
from awakeables.testing import Harness
from simulation import corpus, mutations
from simulation.invariants import violations_of_any_app
from simulation.trees.comparison import differences
from simulation.trees.evaluation import Evaluation
from simulation.trees.handlers import Question, answer_to, app, function_of, keyed
from simulation.trees.programs import BRANCHES, CALLS, LAYERS, SIMPLE, STATE, TREES, Shape, Step, trees
from simulation.trees.world import grow
from support.effort import SIM_SEEDS

FIRST = int(os.environ.get("SIM_FIRST", "0"))
SEEDS = -(-SIM_SEEDS // 8)
SEEDS_OF_SEVERAL = -(-SIM_SEEDS // 25)
"""A world of three instances takes several times as long."""
SHAPES = pytest.mark.parametrize("shape", [TREES, LAYERS], ids=["trees", "layers"])

pytestmark = [pytest.mark.timeout(1200)]


@SHAPES
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_every_promise_is_kept_to_random_calls(shape: Shape, seed: int) -> None:
    world = grow(seed, shape)
    assert [*differences(world.roots, world.store.tables), *violations_of_any_app(world)] == []


@SHAPES
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS_OF_SEVERAL))
def test_every_promise_is_kept_to_random_calls_of_several_instances(shape: Shape, seed: int) -> None:
    world = grow(seed, shape, instances=3)
    assert [*differences(world.roots, world.store.tables), *violations_of_any_app(world)] == []


@SHAPES
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS_OF_SEVERAL))
def test_random_calls_come_to_the_same_though_each_step_crashes(shape: Shape, seed: int) -> None:
    roots = trees(seed, shape)[:2]
    corpus.ledger.executed.clear()
    corpus.ledger.flaky.clear()

    def answer(task: Task[Question]) -> int:
        if task.payload.is_rejected:
            raise Reject(task.payload.at, code=409)
        return answer_to(task.payload.at)

    # Not as a context manager, which would insist on a question.
    with closing(Harness(app, thorough=True, retry=RetryPolicy(), seed=seed)) as harness:
        harness.on_task(corpus.TASKS, answer)
        for root in roots:
            harness.send(function_of(root), root, **keyed(root))
        harness.advance(timedelta(hours=1))
        assert differences(roots, harness._service.store.tables) == []


@pytest.mark.parametrize(
    ("mutation", "shape", "what"),
    [
        (mutations.called_again_after_a_lost_acknowledgement, TREES, "calls: "),
        (mutations.called_again_after_a_lost_acknowledgement, TREES, "J3: "),
        (mutations.the_end_of_a_call_tells_nobody, TREES, "results: "),
        (mutations.two_hold_one_key, LAYERS, "O1: the counter"),
        (mutations.state_is_read_again_in_replay, LAYERS, "O1: the counter"),
    ],
    ids=lambda given: getattr(given, "__name__", None),
)
def test_a_guard_that_is_taken_away_changes_what_trees_come_to(
    mutation: Callable[[], Any], shape: Shape, what: str
) -> None:
    def found(seed: int) -> list[str]:
        with mutation():
            world = grow(seed, shape)
            return differences(world.roots, world.store.tables)

    assert any(each.startswith(what) for seed in range(10) for each in found(seed))


def test_every_step_is_taken_by_what_ends_by_itself() -> None:
    """A tree in which nothing happens comes to the same, too."""
    roots = [root for seed in range(20) for root in trees(seed, TREES)]
    known = Evaluation.of(roots).invocations.values()
    ended = [each.node for each in known if each.fate == "ends"]
    assert {each.fate for each in known} == {"ends", "begins", "may begin"}
    assert {node.kind for node in ended} == set(TREES.kinds)
    taken = {do for node in ended for do in steps_of(node.steps)}
    assert taken == {*SIMPLE, *STATE, *CALLS, *BRANCHES, "attach", "fail", "settle"}


def steps_of(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        yield step.do
        for branch in step.branches:
            yield from steps_of(branch)
