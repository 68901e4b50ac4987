"""The image and the stack, as far as they can be read without an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from awakeables.settings import Settings

ROOT = Path(__file__).parents[3]


def pins(name: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+==[^\s;]+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def services() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return read


def test_the_image_is_locked_to_what_is_tested() -> None:
    for name in ("runtime.txt", "build.txt"):
        text = (ROOT / "requirements" / name).read_text()
        assert pins(name)
        assert pins(name) <= pins("lock.txt")
        assert text.count("--hash=sha256:") > len(pins(name))
        assert "://" not in text


def test_what_only_tests_need_is_not_in_the_image() -> None:
    names = {pin.partition("==")[0] for pin in pins("runtime.txt")}
    assert {"aiokafka", "starlette", "pydantic"} <= names
    assert not names & {"pytest", "mypy", "hypothesis", "confluent-kafka", "testcontainers", "hatchling"}


def test_a_container_is_left_more_time_than_the_drain_takes() -> None:
    drain_s = Settings.model_fields["drain_timeout"].default.total_seconds()
    for name in ("service", "worker"):
        grace = services()[name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= drain_s + 10


def test_every_port_is_published_on_loopback_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_case_o9_the_worker_s_health_is_asked_where_it_is_served() -> None:
    worker = services()["worker"]
    [*_, port] = worker["healthcheck"]["test"]
    assert port == str(worker["environment"]["AWAKEABLES_METRICS_PORT"])
