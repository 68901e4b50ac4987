"""The callback cycle beside the floor: the answer over Kafka, or over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import disk
from benchmarks.pairs import Entrant, Plan, compare
from benchmarks.processes import Process, free_port, wait_for_port
from benchmarks.stage import Ground, Server, Stage, staged

RESOLVE_AT = "/awakeables"


def over_kafka(ground: Ground, plan: Plan, *, worker: str) -> dict[str, Any]:
    """The worker produces the completion; `worker` is `plain` or `sdk`.

    Raises:
        disk.Broken: What the store has kept does not fit the answers.
        Failed: A process ended.
    """
    with staged(ground) as stage:
        floor, ours = stage.floor(), stage.serve(stage.folder / "bench.db")
        answering = stage.plain_worker() if worker == "plain" else stage.sdk_worker()
        return _measure(stage, floor, ours, answering, plan) | {"worker": worker}


def over_http(ground: Ground, plan: Plan) -> dict[str, Any]:
    """The worker posts the answer to the server.

    Raises:
        disk.Broken: What the store has kept does not fit the answers.
        Failed: A process ended.
    """
    with staged(ground) as stage:
        floor, ours = stage.floor(), stage.serve(stage.folder / "bench.db")
        answering = stage.plain_worker(
            {
                stage.floor_topic: floor.url + RESOLVE_AT,
                stage.completions_topic: ours.url + RESOLVE_AT,
            }
        )
        return _measure(stage, floor, ours, answering, plan) | {"worker": "plain, over HTTP"}


def calls(ground: Ground, plan: Plan) -> dict[str, Any]:
    """A handler that calls another one and returns its result, beside the cycle over Kafka, on one server.

    Raises:
        disk.Broken: What the store has kept does not fit the answers.
        Failed: A process ended.
    """
    with staged(ground) as stage:
        server, worker = stage.serve(stage.folder / "bench.db"), stage.plain_worker()
        cycle = Entrant("cycle", server, worker)
        calling = Entrant("call", server, worker, path="/bench/call")
        found = compare(cycle, calling, plan)
        answered = cycle.answered + 2 * calling.answered
        kept = disk.audit(stage.folder / "bench.db", answered=answered)
        return found | {"worker": "plain", "answered": answered, "kept": kept}


def functions(ground: Ground, plan: Plan) -> dict[str, Any]:
    """The cycle in a function, a process of its own, beside the one in the service; over Kafka.

    Raises:
        disk.Broken: What the store has kept does not fit the answers.
        Failed: A process ended.
    """
    with staged(ground) as stage:
        port, keys = free_port(), stage.key_pair()
        settings = {
            "BENCH_FUNCTION_KEY": keys.public,
            "BENCH_FUNCTION_URL": f"http://127.0.0.1:{port}",
            "AWAKEABLES_FUNCTION_KEY": str(keys.private),
        }
        serving = ("-m", "uvicorn", "--log-level", "warning", "--port", str(port))
        function = stage.start("function", *serving, "benchmarks.elsewhere:function", environment=settings)
        wait_for_port(function, port)
        store, worker = stage.folder / "bench.db", stage.plain_worker()
        server = stage.serve(store, settings, app="benchmarks.elsewhere:app")
        here = Entrant("in the service", server, worker)
        there = Entrant("in a function", server, worker, path="/elsewhere/cycle")
        before_s = function.cpu_s()
        found = compare(here, there, plan)
        answered = here.answered + there.answered
        kept = disk.audit(store, answered=answered)
        function_us = (function.cpu_s() - before_s) / max(1, there.answered) * 1e6
        return found | {"worker": "plain", "answered": answered, "kept": kept, "function_us": function_us}


def objects(ground: Ground, plan: Plan, *, keys: int) -> dict[str, Any]:
    """A handler of an object that adds one to its key's state, beside the cycle over Kafka, on one server.

    Raises:
        disk.Broken: What the store has kept does not fit the answers.
        Failed: A process ended.
    """
    with staged(ground) as stage:
        server, worker = stage.serve(stage.folder / "bench.db"), stage.plain_worker()
        cycle = Entrant("cycle", server, worker)
        counting = Entrant("object", server, worker, path=f"/counters/any-{keys}/increment")
        found = compare(cycle, counting, plan)
        answered = cycle.answered + counting.answered
        kept = disk.audit(stage.folder / "bench.db", answered=answered)
        return found | {"worker": "plain", "answered": answered, "kept": kept}


def beside(ground: Ground, plan: Plan, *, checkout: Path) -> dict[str, Any]:
    """The cycle over Kafka beside another checkout's, which has its own environment, app and worker.

    Raises:
        disk.Broken: What a store has kept does not fit the answers.
        Failed: A process ended.
    """
    with staged(ground) as theirs, staged(ground) as ours:
        store = theirs.folder / "bench.db"
        other = Entrant("the other checkout", theirs.serve(store, checkout=checkout), theirs.plain_worker())
        entrant = Entrant("this one", ours.serve(ours.folder / "bench.db"), ours.plain_worker())
        found = compare(other, entrant, plan)
        disk.audit(store, answered=other.answered)
        kept = disk.audit(ours.folder / "bench.db", answered=entrant.answered)
        return found | {"worker": "plain", "answered": entrant.answered, "kept": kept}


def _measure(stage: Stage, floor: Server, ours: Server, worker: Process, plan: Plan) -> dict[str, Any]:
    entrant = Entrant("ours", ours, worker)
    found = compare(Entrant("floor", floor, worker), entrant, plan)
    kept = disk.audit(stage.folder / "bench.db", answered=entrant.answered)
    return found | {"answered": entrant.answered, "kept": kept}
