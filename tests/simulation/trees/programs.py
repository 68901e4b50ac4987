"""Trees of calls made at random, as plain data: the input of a handler says what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

from pydantic import BaseModel

Kind: TypeAlias = Literal["service", "exclusive", "shared", "run"]


class Step(BaseModel):
    """What a handler does at one place.

    Attributes:
        do: See `SIMPLE` and the other groups.
        at: Its path, which no other step of any tree has.
        n: Seconds, an amount, or a choice.
        of: The path of an earlier step that it refers to.
        called: The nodes that it calls or sends.
        branches: The steps of each branch.
    """

    do: str
    at: str
    n: int = 0
    of: str = ""
    called: list[Node] = []
    branches: list[list[Step]] = []


class Node(BaseModel):
    """One invocation.

    Attributes:
        path: The place of the call in its caller.
        layer: How deep it is; of objects a layer of their own, and only lower ones are called.
        key: Of an object or a workflow.
        given: What the last action of its caller has returned.
        awakeable: The ID of the awakeable that it settles.
    """

    path: str
    kind: Kind
    layer: int
    key: str
    steps: list[Step]
    given: str = ""
    awakeable: str = ""


SIMPLE = ("sleep", "act", "act twice", "ask", "peek")
STATE = ("add", "add slowly", "mark", "unmark")
"""Of exclusive handlers and runs; not in branches, where one would overwrite what another has read."""
CALLS = ("call", "insist", "send", "cancel", "join", "hand over", "gather", "map", "race", "race to cancel")
"""`insist` fails with its call, all others go on."""
BRANCHES = ("branches", "branches that race")
MOST_BRANCHES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What trees are made of.

    Attributes:
        count: How many trees grow in one world.
        kinds: How often a call is to each kind of handler.
        steps: How often each step is taken.
        layers: How deep they are.
        keys: Of each object; few, so that queues form.
        nodes: About how many invocations a tree has at most.
        fail: How likely a handler fails in the end.
    """

    count: int
    kinds: Mapping[Kind, int]
    steps: Mapping[str, int]
    layers: int
    keys: int
    nodes: int
    fail: float


TREES = Shape(
    count=4,
    kinds={"service": 4, "exclusive": 4, "shared": 2, "run": 1},
    steps=dict.fromkeys((*SIMPLE, *STATE, *CALLS, *BRANCHES), 2)
    | {"call": 6, "send": 4}
    | dict.fromkeys(("cancel", "race to cancel", "branches that race"), 1),
    layers=4,
    keys=2,
    nodes=20,
    fail=0.15,
)
"""Everything."""

LAYERS = Shape(
    count=8,
    kinds={"exclusive": 1},
    steps={
        "add": 3,
        "add slowly": 3,
        "mark": 1,
        "unmark": 1,
        "sleep": 1,
        "ask": 1,
        "act": 1,
        "call": 5,
        "insist": 1,
        "send": 4,
        "gather": 1,
        "hand over": 2,
    },
    layers=3,
    keys=2,
    nodes=15,
    fail=0.2,
)
"""Objects that call those of the next layer; nothing is cancelled, so that each counter is known."""


def trees(seed: int, shape: Shape) -> list[Node]:
    """The trees of a seed, in the order in which they are begun."""
    chance = Random(seed)
    return [_Growing(chance, shape).node(f"tree{number}", 0) for number in range(shape.count)]


class _Growing:
    """One tree, of which some nodes are still to be made."""

    def __init__(self, chance: Random, shape: Shape) -> None:
        self._chance = chance
        self._shape = shape
        self._left = shape.nodes

    def node(self, path: str, layer: int, *, settles: bool = False) -> Node:
        self._left -= 1
        chance = self._chance
        kind = chance.choices(list(self._shape.kinds), list(self._shape.kinds.values()))[0]
        # One run for each key, so a key for each run.
        key = path if kind == "run" else f"k{chance.randrange(self._shape.keys)}"
        steps = self._steps(path, layer, writes=kind in ("exclusive", "run"))
        if settles:
            steps.insert(0, Step(do="settle", at=f"{path}.settle", n=chance.randrange(1000)))
        return Node(path=path, kind=kind, layer=layer, key=key, steps=steps)

    def _steps(self, path: str, layer: int, *, writes: bool, in_branch: bool = False) -> list[Step]:
        without = {*(() if writes else STATE), *(BRANCHES if in_branch else ())}
        steps: list[Step] = []
        for place in range(self._chance.randint(1, 3 if in_branch else 5)):
            if layer + 1 >= self._shape.layers or self._left <= 0:
                without |= {*CALLS, *BRANCHES}
            weights = {do: often for do, often in self._shape.steps.items() if do not in without}
            do = self._chance.choices(list(weights), list(weights.values()))[0]
            steps += self._step(do, f"{path}.{place}", layer, steps)
        if self._chance.random() < self._shape.fail:
            steps.append(Step(do="fail", at=f"{path}.fail"))
        return steps

    def _step(self, do: str, at: str, layer: int, before: list[Step]) -> list[Step]:
        step = Step(do=do, at=at, n=self._chance.randint(1, 6))
        if do == "unmark":
            marks = [each.at for each in before if each.do == "mark"]
            if not marks:
                return []
            step.of = self._chance.choice(marks)
        elif do in BRANCHES:
            for number in range(self._chance.randint(2, MOST_BRANCHES)):
                branch = self._steps(f"{at}|{number}", layer, writes=False, in_branch=True)
                step.branches.append(branch)
        elif do in CALLS:
            several = do in ("gather", "map", "race", "race to cancel")
            for number in range(self._chance.randint(2, 3) if several else 1):
                step.called.append(self.node(f"{at}/{number}", layer + 1, settles=do == "hand over"))
        if do == "send" and self._chance.random() < 0.5:
            return [step, Step(do="attach", at=f"{at}.attach", n=step.n, of=at)]
        return [step]
