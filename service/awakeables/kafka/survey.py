"""The configuration of a cluster and our topics, as the brokers report it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aiokafka import errors as kafka
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import DescribeConfigsRequest

from awakeables.handlers.service import App
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.recommendations import PARTITIONS, REPLICATION, Role, TopicState
from awakeables.kafka.topics import TopicFacts, asking, describe
from awakeables.worker.deadletters import dead_letter_topic
from awakeables.worker.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found.

    Attributes:
        brokers: How many brokers the cluster has now.
        topics: The topics that exist.
        missing: The names of those that don't.
        problems: What is wrong with a topic as a whole, by its name.
        undisclosed: Topics whose settings the cluster doesn't disclose, and why.
    """

    brokers: int
    topics: tuple[TopicState, ...]
    missing: tuple[str, ...]
    problems: Mapping[str, str]
    undisclosed: Mapping[str, str]


def topics_of(
    app: App, workers: Iterable[Worker], tasks: Iterable[str] = (), *, verdicts: bool = False
) -> dict[str, Role]:
    """The topics of an app and its subscriptions, of its workers, and further task topics, with their roles.

    An app's handlers name task topics when they publish, so they can't be derived from the app. It has a
    verdicts topic if verdicts are published. Each task topic has a topic for its dead letters, even if its
    workers don't use our SDK.
    """
    roles: dict[str, Role] = {
        app.completions_topic: "completions",
        app.dead_letter_topic: "dead letters",
        app.revocations_topic: "revocations",
    }
    if verdicts:
        roles[app.verdicts_topic] = "verdicts"
    task_topics = dict.fromkeys([*tasks, *(topic for worker in workers for topic in worker.topics)])
    roles |= dict.fromkeys(task_topics, "tasks")
    for topic in task_topics:
        roles.setdefault(dead_letter_topic(topic), "dead letters")
    for handler in app.subscribed().values():
        if handler.subscription is not None:
            roles.setdefault(handler.subscription.topic, "subscribed")
    return roles


async def survey(connection: KafkaConnection, roles: Mapping[str, Role]) -> Survey:
    """Inspect these topics, without creating any.

    Raises:
        BrokerUnavailable: Kafka can't be reached.
    """
    async with asking(connection) as client:
        facts = await describe(client, roles) if roles else {}
        brokers = len(client.cluster.brokers())
        there = [name for name in roles if facts[name].problem is None and not facts[name].leaderless]
        settings, undisclosed = await _settings(client, there)
    return Survey(
        brokers=brokers,
        topics=tuple(_state(name, roles[name], facts[name], settings.get(name, {})) for name in there),
        missing=tuple(name for name in roles if facts[name].missing),
        problems={
            n: _name_of(f.problem or kafka.LeaderNotAvailableError)
            for n, f in facts.items()
            if (f.problem is not None or f.leaderless) and not f.missing
        },
        undisclosed=undisclosed,
    )


def _state(name: str, role: Role, facts: TopicFacts, settings: Mapping[str, str]) -> TopicState:
    counted = {PARTITIONS: str(len(facts.partitions)), REPLICATION: str(facts.replication)}
    return TopicState(name=name, role=role, settings={**counted, **settings})


async def _settings(
    client: AIOKafkaClient, names: list[str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    if not names:
        return {}, {}
    request = DescribeConfigsRequest([(ConfigResourceType.TOPIC, name, None) for name in names])
    try:
        response = await client.send(client.get_random_node(), request)
    except kafka.IncompatibleBrokerVersion:
        return {}, dict.fromkeys(names, "this broker doesn't disclose settings")
    settings, undisclosed = {}, {}
    for code, message, _type, name, entries in response.resources:
        if code:
            undisclosed[name] = message or _name_of(kafka.for_code(code))
        else:
            settings[name] = {key: value for key, value, *_ in entries if value is not None}
    return settings, undisclosed


def _name_of(problem: type[kafka.KafkaError] | None) -> str:
    return problem.__name__.removesuffix("Error") if problem is not None else ""
