"""What a tree comes to, by evaluating it in plain Python: results, invocations, and state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from simulation.trees.handlers import answer_to, group_of
from simulation.trees.programs import Node, Step

Fate: TypeAlias = Literal["ends", "begins", "may begin"]
"""Of an invocation: it ends by itself; it is begun, and may be cancelled; or not even that is certain."""


@dataclass(frozen=True, slots=True)
class Token:
    """What the action of a place returns, which names the execution, too."""

    at: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """What depends on which of several was the first."""

    values: tuple[Any, ...]


def fits(expected: Any, actual: Any) -> bool:
    """Is it what was expected?"""
    match expected:
        case OneOf(values):
            return any(fits(value, actual) for value in values)
        case Token(at):
            return isinstance(actual, str) and actual.rpartition("#")[0] == at
        case list():
            return (
                isinstance(actual, list) and len(actual) == len(expected) and all(map(fits, expected, actual))
            )
        case _:
            return bool(actual == expected)


class Failed(Exception):
    """A node fails; its argument is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What is known of an invocation beforehand.

    Attributes:
        caller: The path of its caller; None: it is begun from outside.
        result: What it ends with, unless it is cancelled.
        given: The place of the action whose result it is given.
    """

    node: Node
    fate: Fate
    caller: str | None
    result: Any
    given: str


@dataclass(slots=True)
class Amounts:
    """What is added to a counter, and what is marked: by all, and by those that end by themselves.

    The counter is one of these numbers at the end, or between them.
    """

    at_least: int = 0
    at_most: int = 0
    marks_at_least: set[str] = field(default_factory=set)
    marks_at_most: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Evaluation:
    """Of several trees that run beside each other.

    Attributes:
        invocations: By path; there may be no others.
        amounts: By object or workflow, and key.
    """

    invocations: dict[str, Invocation] = field(default_factory=dict)
    amounts: dict[tuple[str, str], Amounts] = field(default_factory=dict)

    @classmethod
    def of(cls, roots: Iterable[Node]) -> Evaluation:
        evaluation = cls()
        for root in roots:
            evaluation.call(root, "ends", None, "")
        return evaluation

    def call(self, node: Node, fate: Fate, caller: str | None, given: str) -> Any:
        """Evaluate a node; return what its caller sees of its end."""
        try:
            result = self._take(node.steps, _Taken(node, fate, given))
        except Failed as failed:
            result = ["failed", failed.args[0]]
        self.invocations[node.path] = Invocation(
            node=node, fate=fate, caller=caller, result=result, given=given
        )
        return result

    def _take(self, steps: Sequence[Step], by: _Taken) -> list[Any]:
        seen: list[Any] = []
        acted = by.given
        for step in steps:
            if step.do.startswith("act"):
                acted = step.at
                seen.append(Token(step.at))
            elif step.called:
                seen.append(self._call(step, by, acted))
            elif step.branches:
                seen.append(self._branch(step, by))
            else:
                seen.append(self._alone(step, by))
        return seen

    def _alone(self, step: Step, by: _Taken) -> Any:
        match step.do:
            case "ask":
                return ["failed", step.at] if step.n == 1 else answer_to(step.at)
            case "attach":
                return by.sent[step.of]
            case "fail":
                raise Failed(step.at)
            case "add" | "add slowly" | "mark" | "unmark":
                self._write(step, by)
        return None

    def _write(self, step: Step, by: _Taken) -> None:
        amounts = self.amounts.setdefault((group_of(by.node), by.node.key), Amounts())
        ends = by.fate == "ends"
        match step.do:
            case "mark":
                amounts.marks_at_most.add(step.at)
                if ends:
                    amounts.marks_at_least.add(step.at)
            case "unmark":
                amounts.marks_at_least.discard(step.of)
                if ends:
                    amounts.marks_at_most.discard(step.of)
            case _:
                amounts.at_most += step.n
                if ends:
                    amounts.at_least += step.n

    def _call(self, step: Step, by: _Taken, acted: str) -> Any:
        ends: Fate = "ends" if by.fate == "ends" else "may begin"
        begins: Fate = "begins" if by.fate == "ends" else "may begin"
        fate = begins if step.do in ("cancel", "race to cancel") else ends
        results = [self.call(node, fate, by.node.path, acted) for node in step.called]
        match step.do:
            case "call":
                return results[0]
            case "insist":
                if _is_failure(results[0]):
                    raise Failed(results[0][1])
                return results[0]
            case "send":
                by.sent[step.at] = results[0]
                return None
            case "cancel":
                return OneOf((results[0], ["cancelled"]))
            case "join":
                return [results[0], results[0]]
            case "hand over":
                return step.called[0].steps[0].n
            case "race":
                return [OneOf(tuple(results)), results]
            case "race to cancel":
                return OneOf(tuple(results))
        return results

    def _branch(self, step: Step, by: _Taken) -> Any:
        races = step.do == "branches that race"
        each = _Taken(by.node, "may begin" if races else by.fate, by.given, by.sent)
        results: list[Any] = []
        for branch in step.branches:
            try:
                results.append(self._take(branch, each))
            except Failed as failed:
                results.append(["failed", failed.args[0]])
        return OneOf(tuple(results)) if races else results


@dataclass(slots=True)
class _Taken:
    """The node whose steps are taken."""

    node: Node
    fate: Fate
    given: str
    sent: dict[str, Any] = field(default_factory=dict)


def _is_failure(result: Any) -> bool:
    return isinstance(result, list) and result[:1] == ["failed"]
