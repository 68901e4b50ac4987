"""What a run of trees has come to, compared with the plain evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from awakeables.core.journal import Input, decode_chunks
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution, as_resolution
from awakeables.store.memory import MemoryTables
from simulation import corpus
from simulation.trees.evaluation import Amounts, Evaluation, Invocation, fits
from simulation.trees.programs import Node


def differences(roots: Sequence[Node], tables: MemoryTables) -> list[str]:
    """Where these trees have come to anything else than the plain evaluation; empty when it is the same."""
    evaluation = Evaluation.of(roots)
    return [
        *_of_invocations(tables, evaluation),
        *_of_actions(tables),
        *_of_states(tables, evaluation),
    ]


def _nodes(tables: MemoryTables) -> dict[str, dict[str, Any]]:
    """What each invocation was given, by its ID."""
    found = {}
    for invocation_id in tables.invocations:
        first = decode_chunks(tables.chunks(invocation_id))[0]
        assert isinstance(first, Input)
        found[invocation_id] = msgspec.json.decode(bytes(first.value)) | {"caller": first.caller}  # type: ignore[arg-type]
    return found


def _of_invocations(tables: MemoryTables, evaluation: Evaluation) -> Iterator[str]:
    """Each call has begun one invocation, by its caller, which ended as it should."""
    nodes = _nodes(tables)
    begun: dict[str, list[str]] = {}
    for invocation_id, node in nodes.items():
        begun.setdefault(node["path"], []).append(invocation_id)
    for path, expected in evaluation.invocations.items():
        ids = begun.pop(path, [])
        if len(ids) > 1 or (not ids and expected.fate != "may begin"):
            yield f"calls: {path} was begun by {ids}"
        for id_ in ids:
            node = nodes[id_]
            caller = None if node["caller"] is None else nodes[node["caller"]]["path"]
            if caller != expected.caller:
                yield f"calls: {path} was called by {caller}, not by {expected.caller}"
            if node["given"].rpartition("#")[0] != expected.given:
                yield f"inputs: {path} was given {node['given']!r}, not what {expected.given!r} has returned"
            yield from _of_result(expected, tables.invocations[id_].result)
    if begun:
        yield f"calls: nobody has called {begun}"


def _of_result(expected: Invocation, result: Outcome | None) -> Iterator[str]:
    seen = _seen(result)
    if isinstance(result, Cancellation) and expected.fate != "ends":
        return
    if not fits(expected.result, seen):
        yield f"results: {expected.node.path} ended with {seen}, not with {expected.result}"


def _seen(result: Outcome | None) -> Any:
    match result:
        case Resolution():
            return msgspec.json.decode(result.content)
        case Rejection():
            return ["failed", result.reason]
        case _:
            return result


def _of_actions(tables: MemoryTables) -> Iterator[str]:
    """J3: of each action one result was used, by whomever, and it is that of an execution."""
    used: dict[str, set[str]] = {}
    for node in _nodes(tables).values():
        if node["given"]:
            used.setdefault(node["given"].rpartition("#")[0], set()).add(node["given"])
    for row in tables.invocations.values():
        for token in _tokens(_seen(row.result)):
            used.setdefault(token.rpartition("#")[0], set()).add(token)
    executed = [at for _, at in corpus.ledger.executed]
    for at, tokens in used.items():
        if len(tokens) > 1:
            yield f"J3: of the action {at} the results {sorted(tokens)} were used"
        if not tokens <= {f"{at}#{time}" for time in range(executed.count(at))}:
            yield f"J3: {sorted(tokens)} was used, and {at} was executed {executed.count(at)} times"


def _tokens(seen: Any) -> Iterator[str]:
    if isinstance(seen, list):
        for each in seen:
            yield from _tokens(each)
    elif isinstance(seen, str) and "#" in seen:
        yield seen


def _of_states(tables: MemoryTables, evaluation: Evaluation) -> Iterator[str]:
    """O1: no write is lost, and none is made twice."""
    counts: dict[tuple[str, str], int] = {}
    marks: dict[tuple[str, str], set[str]] = {}
    for ((group, key), name), (value, _) in tables.states.items():
        place = (group, key.decode())
        if name == "count":
            counts[place] = msgspec.json.decode(as_resolution(value).content)
        else:
            marks.setdefault(place, set()).add(name.removeprefix("marks/"))
    for place in evaluation.amounts.keys() | counts.keys() | marks.keys():
        expected = evaluation.amounts.get(place, Amounts())
        count, marked = counts.get(place, 0), marks.get(place, set())
        if not expected.at_least <= count <= expected.at_most:
            yield f"O1: the counter of {place} is {count}, not {expected.at_least} to {expected.at_most}"
        if not expected.marks_at_least <= marked <= expected.marks_at_most:
            yield f"O1: the marks of {place} are {sorted(marked)}, not {sorted(expected.marks_at_least)}"
