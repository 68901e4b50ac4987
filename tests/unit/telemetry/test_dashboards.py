"""The dashboard, the alarms and the handbook speak of metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from awakeables.core.invocations import STATUSES
from awakeables.telemetry.metrics import Metrics, WorkerMetrics
from awakeables.telemetry.vocabulary import (
    PROCESS_METRICS,
    SERVICE_METRICS,
    VALUES,
    VOCABULARY,
    WORKER_METRICS,
    Metric,
)

DOCS = Path(__file__).parents[3] / "docs"
OF_PROMETHEUS = {"instance", "job", "le"}
DURATION = re.compile(r"\[[^\]]*\]")
TEXT = re.compile(r'"[^"]*"')
NAME = re.compile(r"\b(?:awakeables|process)_\w+")
SELECTOR = re.compile(r"\b((?:awakeables|process)_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")

SAMPLES: dict[str, Metric] = {sample: metric for metric in VOCABULARY for sample in metric.samples}


def alarms() -> list[dict[str, Any]]:
    document = yaml.safe_load((DOCS / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DOCS / "grafana/awakeables.json").read_text())
    return document


def shown() -> Iterator[tuple[str, str, str]]:
    """Each panel's title, its expressions, and their legends."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


EXPRESSIONS = [
    *(pytest.param(rule["expr"], "", id=rule["alert"]) for rule in alarms()),
    *(pytest.param(expr, legend, id=f"{title}-{n}") for n, (title, expr, legend) in enumerate(shown())),
]


@pytest.mark.parametrize(("expression", "legend"), EXPRESSIONS)
def test_an_expression_names_metrics_and_labels_of_the_vocabulary(expression: str, legend: str) -> None:
    names = set(NAME.findall(TEXT.sub('""', expression)))
    assert names
    assert names <= SAMPLES.keys() | set(PROCESS_METRICS)
    labels = {label for name in names if name in SAMPLES for label in SAMPLES[name].labels} | OF_PROMETHEUS
    grouped = {label.strip() for group in GROUPING.findall(expression) for label in group.split(",")}
    assert grouped <= labels
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels
    for name, matchers in SELECTOR.findall(expression):
        own = set(SAMPLES[name].labels) if name in SAMPLES else set()
        for label, wanted in MATCHER.findall(matchers):
            assert label in own | OF_PROMETHEUS
            if label in VALUES:
                assert set(wanted.split("|")) <= set(VALUES[label])


@pytest.mark.parametrize(("expression", "legend"), EXPRESSIONS)
def test_an_expression_has_its_brackets_in_pairs(expression: str, legend: str) -> None:
    bare = TEXT.sub("", expression)
    for opening, closing in ("()", "[]", "{}"):
        assert bare.count(opening) == bare.count(closing)


@pytest.mark.parametrize("rule", alarms(), ids=lambda rule: rule["alert"])
def test_an_alarm_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "runbook"}
    assert re.fullmatch(r"Awakeables[A-Z]\w+", rule["alert"])


def test_alarms_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in alarms()]
    assert len(names) == len(set(names)) > 15


def test_the_dashboard_can_be_imported_anywhere() -> None:
    document = dashboard()
    assert document["uid"]
    [source] = [v for v in document["templating"]["list"] if v["type"] == "datasource"]
    panels = [panel for panel in document["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${" + source["name"] + "}"}
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))
    assert "id" not in document


def test_every_metric_is_on_the_dashboard() -> None:
    drawn = {SAMPLES[name].name for _, expr, _ in shown() for name in NAME.findall(expr) if name in SAMPLES}
    assert {metric.name for metric in VOCABULARY} - drawn == set()


def handbook() -> str:
    _, _, section = (DOCS / "operations.md").read_text().partition("\n## Metrics and alarms\n")
    return section.partition("\n## ")[0]


@pytest.mark.parametrize("metric", VOCABULARY, ids=lambda metric: metric.name)
def test_the_operations_guide_says_of_every_metric_what_to_do(metric: Metric) -> None:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    name = metric.samples[0] if metric.kind != "histogram" else metric.name
    assert f"| `{name}` | {metric.kind} | {labels} | {metric.help} | {metric.runbook} |\n" in handbook()


@pytest.mark.parametrize("rule", alarms(), ids=lambda rule: rule["alert"])
def test_the_operations_guide_says_of_every_alarm_what_to_do(rule: dict[str, Any]) -> None:
    told = rule["annotations"]
    assert f"| `{rule['alert']}` | {told['summary']} | {told['runbook']} |\n" in handbook()


def test_the_operations_guide_names_every_value_of_the_closed_labels() -> None:
    for label, values in VALUES.items():
        assert f"`{label}`: {', '.join(f'`{value}`' for value in values)}" in handbook()


@pytest.mark.parametrize(
    ("registry", "wanted"),
    [(Metrics().registry, SERVICE_METRICS), (WorkerMetrics().registry, WORKER_METRICS)],
    ids=["service", "worker"],
)
def test_what_is_registered_is_the_vocabulary(registry: Any, wanted: tuple[Metric, ...]) -> None:
    told = {(f.name, f.type, f.documentation) for f in registry.collect()}
    assert told == {(metric.name, metric.kind, metric.help) for metric in wanted}


@pytest.mark.parametrize("metric", VOCABULARY, ids=lambda metric: metric.name)
def test_a_metric_is_named_after_what_it_measures(metric: Metric) -> None:
    assert re.fullmatch(r"awakeables(_[a-z]+)+", metric.name)
    assert bool(metric.buckets) == (metric.kind == "histogram")
    declared = {
        "app",
        "version",
        "python",
        "service",
        "handler",
        "object",
        "partition",
        "method",
        "route",
        "http_status",
        "topic",
        "subscription",
        "schedule",
    }
    assert set(metric.labels) <= VALUES.keys() | declared


def test_the_statuses_are_those_of_invocations_that_have_not_ended() -> None:
    assert {*VALUES["status"], "completed"} == set(STATUSES)


def test_case_o10_an_alarm_over_several_apps_misses_each_of_them() -> None:
    """What isn't there has no labels: the app's name must come from when it was."""
    [absent] = [rule for rule in alarms() if rule["alert"] == "AwakeablesAbsent"]
    alone, _, each = absent["expr"].partition(" or ")
    assert alone == "absent(awakeables_build_info)"
    before, _, now = each.strip("() ").partition(" unless on (app) ")
    assert before == "group by (app) (last_over_time(awakeables_build_info[1d]))"
    assert now.startswith("group by (app) (awakeables_build_info")


@pytest.mark.parametrize("rule", alarms(), ids=lambda rule: rule["alert"])
def test_case_o10_an_alarm_mixes_no_apps(rule: dict[str, Any]) -> None:
    """Aggregated over instances, a slow app would hide behind a quick one, and the alarm name neither."""
    expression = rule["expr"]
    aggregations = re.findall(r"\b(?:sum|avg|min|max|count|group)\b(?: by \(([^)]*)\))?", expression)
    worker = {name for name in NAME.findall(expression) if name in SAMPLES} <= {
        sample for metric in WORKER_METRICS for sample in metric.samples
    }
    for labels in aggregations:
        assert worker or {"instance", "app"} & {label.strip() for label in labels.split(",")}


def test_the_alarm_on_internal_errors_leaves_out_the_failures_of_handlers() -> None:
    [rule] = [rule for rule in alarms() if rule["alert"] == "AwakeablesServerErrors"]
    assert set(re.findall(r'route!="([^"]+)"', rule["expr"])) == {"/*/*", "/*/*/*"}


def test_case_o10_the_dashboard_can_be_looked_at_by_app() -> None:
    queries = {v["name"]: v["definition"] for v in dashboard()["templating"]["list"] if "definition" in v}
    assert queries["app"] == "label_values(awakeables_build_info, app)"
    assert queries["instance"] == 'label_values(awakeables_build_info{app=~"$app"}, instance)'
