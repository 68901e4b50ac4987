"""`topics`: check that an app's topics can't lose records; create missing ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from awakeables.cli.options import AppName, AsJson, Config, Kafka, TaskTopics, Wide, Workers, settings_for
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_line, print_note, print_table
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.settings import Settings
from awakeables.worker.worker import Worker

if TYPE_CHECKING:
    from awakeables.kafka.recommendations import Role
    from awakeables.kafka.survey import Survey

group = typer.Typer(help="Check or create the app's topics, directly in Kafka.", no_args_is_help=True)

CLIENT = "awakeables-topics"

_TABLE = TableLayout(
    names=("topic", "setting", "value", "advised", "verdict", "why"),
    titles={"value": "is", "advised": "should be", "verdict": ""},
    prose="why",
)


@group.command()
def check(
    app: AppName,
    worker: Workers = None,
    task_topic: TaskTopics = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also show settings that are as recommended.")
    ] = False,
    kafka: Kafka = None,
    wide: Wide = False,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Compare topics with the recommendations in docs/operations.md. Exits with 1 if a *must* is not met."""
    from awakeables.kafka.recommendations import judge
    from awakeables.kafka.survey import survey
    from awakeables.runtime import connection_of

    settings = settings_for(config, kafka=kafka)
    roles = _roles(app, worker, task_topic, settings)
    found = asyncio.run(survey(connection_of(settings, CLIENT), roles))
    judgements = [asdict(j) for topic in found.topics for j in judge(topic, brokers=found.brokers)]
    rows = [*_not_comparable(found, roles), *judgements]
    if json_:
        print_json(msgspec.json.encode(rows))
    else:
        shown = [row for row in rows if everything or row["verdict"] != "ok"]
        print_table(_TABLE, shown, none="all topics are set up as recommended", wide=wide)
    if any(row["verdict"] == "must" for row in rows):
        raise typer.Exit(1)


@group.command()
def create(
    app: AppName,
    worker: Workers = None,
    task_topic: TaskTopics = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Partitions of the completions and task topics, instead of the recommended number.",
            show_default=False,
        ),
    ] = None,
    replication: Annotated[
        int | None,
        typer.Option(
            min=1, help="Replicas, instead of 3 or the number of brokers if fewer.", show_default=False
        ),
    ] = None,
    kafka: Kafka = None,
    config: Config = None,
) -> None:
    """Create missing topics as recommended. Existing topics are never changed."""
    from awakeables.kafka.recommendations import plan_for
    from awakeables.kafka.survey import survey
    from awakeables.kafka.topics import create_topics
    from awakeables.runtime import connection_of

    settings = settings_for(config, kafka=kafka)
    roles, connection = _roles(app, worker, task_topic, settings), connection_of(settings, CLIENT)
    found = asyncio.run(survey(connection, roles))
    plans = {
        name: plan_for(
            roles[name],
            brokers=found.brokers,
            partitions=None if roles[name] == "dead letters" else partitions,
            replication=replication,
        )
        for name in found.missing
        if roles[name] != "subscribed"
    }
    asyncio.run(create_topics(connection, plans))
    for name, role in roles.items():
        if name not in plans:
            is_missing = name in found.missing and role == "subscribed"
            why = "does not exist: its producers should create it" if is_missing else "exists, left unchanged"
            print_line(f"{name}: {why}")
            continue
        plan = plans[name]
        chosen = ", ".join(f"{key}={value}" for key, value in plan.settings.items())
        counts = f"partitions={plan.partitions}, replication.factor={plan.replication}"
        print_line(f"{name}: created with {counts}, {chosen}")


def _roles(
    app: str, workers: list[str] | None, tasks: list[str] | None, settings: Settings
) -> dict[str, Role]:
    from awakeables.kafka.survey import topics_of

    loaded = load(app, App, "app")
    loaded_workers = [load(w, Worker, "worker") for w in workers or []]
    roles = topics_of(loaded, loaded_workers, tasks or (), verdicts=settings.verdicts)
    if "tasks" not in roles.values():
        print_note(
            "task topics are not included: name them with --worker MODULE:WORKER or --task-topic TOPIC"
        )
    return roles


def _not_comparable(found: Survey, roles: Mapping[str, Role]) -> list[dict[str, Any]]:
    """Rows for topics whose settings can't be compared: missing, broken or not readable."""
    missing = "it does not exist: create it with `awakeables topics create` and the same arguments"
    others = "it does not exist: a subscription waits for it, and its producers should create it"
    rows = [(name, "must", others if roles[name] == "subscribed" else missing) for name in found.missing]
    rows += [(name, "must", problem) for name, problem in found.problems.items()]
    rows += [
        (name, "advice", f"its settings can't be read: {why}") for name, why in found.undisclosed.items()
    ]
    return [{"topic": name, "verdict": verdict, "why": why} for name, verdict, why in rows]
