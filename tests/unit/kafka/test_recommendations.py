"""Topics held against what is recommended."""

from __future__ import annotations

import pytest

from awakeables.kafka.recommendations import (
    IN_SYNC,
    PARTITIONS,
    REPLICATION,
    Role,
    TopicState,
    judge,
    plan_for,
)

ROLES: tuple[Role, ...] = ("completions", "dead letters", "verdicts", "tasks")


def planned(role: Role, *, brokers: int, **changed: str) -> TopicState:
    plan = plan_for(role, brokers=brokers)
    counts = {PARTITIONS: str(plan.partitions), REPLICATION: str(plan.replication)}
    return TopicState(name="t", role=role, settings=counts | dict(plan.settings) | changed)


def verdicts(topic: TopicState, *, brokers: int) -> dict[str, str]:
    return {j.setting: j.verdict for j in judge(topic, brokers=brokers) if j.verdict != "ok"}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("brokers", [3, 5])
def test_a_topic_that_we_plan_passes(role: Role, brokers: int) -> None:
    assert verdicts(planned(role, brokers=brokers), brokers=brokers) == {}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("brokers", [1, 2])
def test_what_a_small_cluster_can_not_have_is_advice(role: Role, brokers: int) -> None:
    found = verdicts(planned(role, brokers=brokers), brokers=brokers)
    assert found == {REPLICATION: "advice", IN_SYNC: "advice"}


def test_one_replica_where_three_can_be_had_is_a_fault() -> None:
    topic = planned("completions", brokers=3, **{REPLICATION: "1", IN_SYNC: "1"})
    assert verdicts(topic, brokers=3) == {REPLICATION: "must", IN_SYNC: "must"}


def test_more_in_sync_than_there_are_replicas_is_a_fault_everywhere() -> None:
    [found] = [
        j for j in judge(planned("tasks", brokers=1, **{IN_SYNC: "2"}), brokers=1) if j.setting == IN_SYNC
    ]
    assert (found.verdict, found.advised) == ("must", "≤ 1")
    assert "all publishing fails" in found.why


@pytest.mark.parametrize(
    ("setting", "value", "verdict"),
    [
        ("cleanup.policy", "compact", "must"),
        ("cleanup.policy", "compact,delete", "must"),
        ("retention.ms", "3600000", "must"),
        ("unclean.leader.election.enable", "true", "must"),
        ("retention.bytes", "1073741824", "advice"),
        ("message.timestamp.type", "CreateTime", "advice"),
        ("max.message.bytes", "1000", "advice"),
        (PARTITIONS, "1", "advice"),
    ],
)
def test_what_loses_records_is_a_must_and_the_rest_advice(setting: str, value: str, verdict: str) -> None:
    assert verdicts(planned("completions", brokers=3, **{setting: value}), brokers=3) == {setting: verdict}


def test_retention_without_a_bound_is_enough() -> None:
    assert verdicts(planned("completions", brokers=3, **{"retention.ms": "-1"}), brokers=3) == {}


def test_what_the_cluster_does_not_report_is_not_checked() -> None:
    topic = TopicState(name="t", role="tasks", settings={PARTITIONS: "12", REPLICATION: "3"})
    assert verdicts(topic, brokers=3) == {}


def test_what_is_asked_for_wins_over_the_recommendation() -> None:
    plan = plan_for("tasks", brokers=3, partitions=2, replication=2)
    assert (plan.partitions, plan.replication, plan.settings[IN_SYNC]) == (2, 2, "1")
    assert not {PARTITIONS, REPLICATION} & plan.settings.keys()
