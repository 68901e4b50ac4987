"""The image and the stack, as far as they can be read without an engine."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from awakeables.settings import Settings
from awakeables.store.urls import checked_store

ROOT = Path(__file__).parents[3]


SERVICES = ("service-1", "service-2")
WORKERS = ("worker-1", "worker-2")


def pins(name: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+==[^\s;]+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def services() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return read


def interpolated(text: str) -> str:
    """With the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


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
    for name in SERVICES + WORKERS:
        grace = services()[name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= drain_s + 10


def test_every_port_is_published_on_loopback_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_case_o9_the_workers_health_is_asked_where_it_is_served() -> None:
    for name in WORKERS:
        worker = services()[name]
        [*_, port] = worker["healthcheck"]["test"]
        assert port == str(worker["environment"]["AWAKEABLES_METRICS_PORT"])


def test_the_password_in_the_url_is_the_one_that_postgresql_is_created_with() -> None:
    postgres = services()["postgres"]["environment"]
    password = interpolated(postgres["POSTGRES_PASSWORD"])
    assert set("@:/?#") < set(password)
    for name in SERVICES:
        store = services()[name]["environment"]["AWAKEABLES_STORE"]
        assert store == services()[SERVICES[0]]["environment"]["AWAKEABLES_STORE"]
        url = urlsplit(checked_store(interpolated(store)))
        assert unquote(url.password or "") == password
        assert (url.username, url.hostname, url.port) == (postgres["POSTGRES_USER"], "postgres", 5432)
        assert url.path == f"/{postgres['POSTGRES_DB']}"


def test_a_password_of_ones_own_is_written_as_the_guide_says(tmp_path: Path) -> None:
    guide = (ROOT / "docs/operations.md").read_text()
    [recipe] = re.findall(r"^python3 - \"\$password\".*?^END$", guide, re.MULTILINE | re.DOTALL)
    password = 'a b"@:/?#%&+é'
    subprocess.run(["sh", "-c", recipe], check=True, cwd=tmp_path, env=os.environ | {"password": password})
    plain, encoded = (tmp_path / ".env").read_text().splitlines()
    assert plain == f"POSTGRES_PASSWORD='{password}'"
    assert unquote(encoded.removeprefix("POSTGRES_PASSWORD_IN_URL=")) == password
    assert checked_store(f"postgresql://shop:{encoded.partition('=')[2]}@postgres:5432/shop")


def test_the_image_has_the_driver_of_postgresql_and_a_plain_installation_does_not_need_it() -> None:
    assert "asyncpg" in {pin.partition("==")[0] for pin in pins("runtime.txt")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [needed for needed in project["dependencies"] if needed.startswith("asyncpg")]
