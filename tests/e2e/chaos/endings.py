"""How every run ends: all is awaited, everything is stopped in order, and the audit is held."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from functools import partial
from typing import get_args

from e2e.chaos import flowaudit, functionaudit, operated, subscribed
from e2e.chaos.app import SUBSCRIPTIONS
from e2e.chaos.audit import violations
from e2e.chaos.evidence import Evidence, Kind
from e2e.chaos.faults import FUNCTION_FAULTS
from e2e.chaos.forgeries import forged_acts, forged_flows, forged_functions, forged_records, forgeries
from e2e.chaos.kafka import ends_of
from e2e.chaos.operators import KINDS
from e2e.chaos.world import PARTITIONS, World
from support.eventually import eventually

DONE_S = 60
MOST_SHOWN = 50


async def stop_when_done(here: World) -> None:
    """All calls are answered, and all records produced; let the rest come in, then stop in order.

    The rest are the records that are not read, and late and repeated answers.
    """

    async def everything_is_read(topic: str, subscription: str = "") -> bool:
        query = (
            f"SELECT partition, next FROM offsets WHERE topic = '{topic}' AND subscription = '{subscription}'"
        )
        positions: dict[int, int] = dict(await here.books.rows(query))
        return all(positions.get(partition, 0) == end for partition, end in ends[topic].items())

    async def everything_has_ended() -> bool:
        # Those that were begun without a key by a call whose answer was lost, too.
        return await here.books.rows("SELECT id FROM invocations WHERE ended_ms IS NULL LIMIT 1") == []

    async def everything_is_sent() -> bool:
        return await here.books.rows("SELECT count(*) FROM outbox") == [(0,)]

    await eventually(here.stops_ticking, timeout=DONE_S)
    ends = {here.events: await ends_of(here.bootstrap, here.events, PARTITIONS)}
    for subscription in SUBSCRIPTIONS:
        await eventually(partial(everything_is_read, here.events, subscription), timeout=DONE_S)
    await eventually(everything_has_ended, timeout=DONE_S)  # which takes workers
    for worker in here.workers.values():
        assert await worker.stop(DONE_S) == 0, worker.last_words()
    ends[here.completions] = await ends_of(here.bootstrap, here.completions, PARTITIONS)
    await eventually(partial(everything_is_read, here.completions), timeout=DONE_S)
    await eventually(everything_has_ended, timeout=DONE_S)
    await eventually(everything_is_sent, timeout=DONE_S)
    await here.verify()  # while the service runs, too
    statuses = await asyncio.gather(*(instance.stop(DONE_S) for instance in here.instances))
    for instance, status in zip(here.instances, statuses, strict=True):
        assert status == 0, instance.last_words()
    if here.function is not None:
        # uvicorn ends by the signal that it has been sent.
        assert await here.function.stop(DONE_S) in (0, -signal.SIGTERM), here.function.last_words()
    await here.verify()


def examine(evidence: Evidence, *, told: str) -> str:
    """Hold the audit and see that it is not blind; fails if a promise was broken. Returns the verdict."""
    found = violations(evidence)
    print(f"\n{told}, {_figures(evidence)}")
    counts = Counter(violation.kind for violation in found)
    verdict = ", ".join(f"{counts[kind]} {kind}" for kind in get_args(Kind))
    print(verdict)
    assert found == [], f"{told}:\n" + "\n".join(map(str, found[:MOST_SHOWN]))
    unseen = [name for name, forged in forgeries(evidence) if not violations(forged)]
    unseen += [name for name, forged in forged_flows(evidence) if not any(flowaudit.violations(forged))]
    if {act.kind for act in evidence.acts if act.accepted} == set(KINDS):
        unseen += [name for name, forged in forged_acts(evidence) if not any(operated.violations(forged))]
    if evidence.produced:
        for name, kind, forged in forged_records(evidence):
            if kind not in {violation.kind for violation in subscribed.violations(forged)}:
                unseen.append(f"{name} ({kind})")
    unseen += [
        name for name, forged in forged_functions(evidence) if not any(functionaudit.violations(forged))
    ]
    assert unseen == [], f"the audit is blind to {unseen}"
    return verdict


def _figures(evidence: Evidence) -> str:
    kinds: Counter[str] = Counter()
    for row in evidence.awakeables.values():
        kinds.update(row.verdicts.counts)
    states = Counter(row.state for row in evidence.awakeables.values())
    effects = [line["invocation"] for line in evidence.lines("effect")]
    tasks = len(evidence.tasks) - len({record.value for record in evidence.tasks})
    lost = sum(call.lost for call in evidence.calls)
    acts = Counter(act.kind for act in evidence.acts if act.accepted)
    ticks = sum(row.handler == "tick" for row in evidence.invocations.values())
    lates = sum(row.handler == "takes_late" for row in evidence.invocations.values())
    return (
        f"{len(evidence.calls)} calls in {sum(call.tries for call in evidence.calls)} tries, "
        f"{lost} without key and answer, {dict(states)}, verdicts {dict(kinds)}, {tasks} tasks sent again, "
        f"{len(effects)} side effects of {len(set(effects))}, "
        f"{len(evidence.records)} records of {len(evidence.produced)} in the subscribed topic, "
        f"{len(evidence.dead_letters)} dead letters, {ticks} ticks, {lates} late answers handled, "
        f"operators {dict(acts)}, {sum(act.held for act in evidence.acts)} paused before they were resumed"
        f"{_figures_of_function(evidence)}"
    )


def _figures_of_function(evidence: Evidence) -> str:
    rows = functionaudit.remote(evidence)
    if not rows:
        return ""
    ids = {row.id for row in rows}
    effects = [line for line in evidence.lines("effect") if line["invocation"] in ids]
    again = len(effects) - len({line["key"] for line in effects})
    hit = {
        name: [functionaudit.under_way(evidence, harm) for harm in evidence.harms if harm.name == name]
        for name in FUNCTION_FAULTS
    }
    open_then = ", ".join(f"{name} {counts}" for name, counts in hit.items() if counts)
    late = len(list(functionaudit.executed_late(evidence)))
    return (
        f"; {len(rows)} invocations went through the function, open in its faults: {open_then or 'none'}; "
        f"it was found down {evidence.outages} times, and executed {again} of {len(effects)} side effects "
        f"again, {late} of them by what was held up until the first was recorded"
    )
