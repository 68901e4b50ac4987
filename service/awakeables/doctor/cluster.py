"""Checks that Kafka is reachable, accepts us, and has our topics set up so that nothing is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from awakeables.doctor.findings import Finding
from awakeables.errors import BrokerUnavailable
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.recommendations import Role, judge
from awakeables.kafka.survey import Survey, survey
from awakeables.ports import Clock

PATIENCE = timedelta(seconds=5)
"""A broker that takes longer to answer is not healthy."""

NOT_CHECKED = Finding("topics", "warn", "not checked: Kafka can't be reached")


async def examine_cluster(
    connection: KafkaConnection, roles: Mapping[str, Role] | None, *, clock: Clock
) -> list[Finding]:
    """Check the broker and the topics; `roles` is None if no app was given."""
    began = clock.monotonic()
    try:
        found = await survey(replace(connection, request_timeout=PATIENCE), roles or {})
    except BrokerUnavailable as error:
        return [Finding("broker", "FAULT", str(error)), NOT_CHECKED]
    took_ms = round((clock.monotonic() - began) * 1000)
    count = f"{found.brokers} broker{'s' * (found.brokers != 1)}"
    broker = Finding("broker", "ok", f"{connection.bootstrap}: {count}, answered in {took_ms} ms")
    return [broker, _topics(found, roles)]


def _topics(found: Survey, roles: Mapping[str, Role] | None) -> Finding:
    if roles is None:
        return Finding("topics", "warn", "not checked: name the app, as in `awakeables doctor shop:app`")
    judgements = [j for topic in found.topics for j in judge(topic, brokers=found.brokers)]
    faults = [f"{name} is missing: {_remedy(roles[name])}" for name in found.missing]
    faults += [f"{name}: {problem}" for name, problem in found.problems.items()]
    faults += [
        f"{j.topic}: {j.setting} is {j.value}, must be {j.advised}" for j in judgements if j.verdict == "must"
    ]
    if faults:
        return Finding("topics", "FAULT", "; ".join(faults))
    doubts = [f"{name}: {why}" for name, why in found.undisclosed.items()]
    advice = sum(j.verdict == "advice" for j in judgements)
    if advice:
        doubts.append(f"{advice} of their settings differ from the advice: see `awakeables topics check`")
    if doubts:
        return Finding("topics", "warn", "; ".join(doubts))
    return Finding("topics", "ok", f"{len(found.topics)} topics exist and are set up as recommended")


def _remedy(role: Role) -> str:
    if role == "subscribed":
        return "a subscription waits for it, and its producers should create it"
    return "`awakeables topics create MODULE:APP`"
