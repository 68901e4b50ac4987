"""The stack of docker-compose.yml, brought up and taken down by the Makefile's own targets."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container

from support.real_kafka import (
    LOOPBACK,
    OWNER_LABEL,
    free_port,
    image,
    reason_real_kafka_is_missing,
    remove_orphans,
    run_in_container,
)
from support.this_run import RUN

ROOT = Path(__file__).parents[2]
PROJECT = "awakeables-test-"
SERVICE_IMAGE = "awakeables-test/service"
UP_TIMEOUT_S = 280


def python_image() -> str:
    """What the Dockerfile begins with; honours the contract of python:3.13-slim."""
    return os.environ.get("TEST_PYTHON_IMAGE", "awakeables-test/python:3.13-slim")


def postgres_image() -> str:
    """Honours the contract of postgres:17."""
    return os.environ.get("TEST_POSTGRES_IMAGE", "awakeables-test/postgres:17")


def compose_command() -> str:
    """The one that the Makefile takes; empty where there is none."""
    if not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return "docker compose"
    return shutil.which("docker-compose") or ""


def reason_compose_is_missing() -> str | None:
    """One sentence on why the stack can't be brought up here, or None."""
    if reason := reason_real_kafka_is_missing():
        return reason
    client = docker.from_env()
    try:
        for needed in (python_image(), postgres_image()):
            client.images.get(needed)
    except ImageNotFound:
        return f"The image {needed} is not there; `.ci/engine` builds it."
    except DockerException as error:
        return f"The Docker engine does not answer properly: {error}"
    finally:
        client.close()
    return None if compose_command() else "There is no docker compose; `.ci/engine` installs it."


class Stack:
    """One project of compose, on loopback ports of its own. All methods block."""

    def __init__(self) -> None:
        ports = [str(free_port()), str(free_port())]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        """Of service-1 and service-2."""
        self._command = f"{compose_command()} -f docker-compose.yml -f tests/support/compose.yml"
        self._client = docker.from_env()
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": f"{PROJECT}{os.getpid()}",
            "HTTP_PORT": ports[0],
            "HTTP_PORT_2": ports[1],
            "KAFKA_IMAGE": image(),
            "POSTGRES_IMAGE": postgres_image(),
            "PYTHON_IMAGE": python_image(),
            "SERVICE_IMAGE": SERVICE_IMAGE,
            # pip then reaches its index as it does on this machine.
            "BUILD_NETWORK": "host",
            # Debian's engine comes without buildx, which newer clients ask for.
            "DOCKER_BUILDKIT": "0",
        }

    def up(self) -> None:
        """`make up`; leftovers of runs that were killed are removed first."""
        remove_orphans()
        self._remove_orphans()
        try:
            self._run("make", "up", f"COMPOSE={self._command}")
        except AssertionError as error:
            error.add_note(self.compose("logs", "--no-color", "--tail", "50"))
            raise

    def down(self) -> None:
        """`make down`, and the volumes go, too."""
        self._run("make", "down", f"COMPOSE={self._command}")
        self.compose("down", "--volumes")
        self._client.close()

    def compose(self, *words: str) -> str:
        """What `docker compose …` prints. Fails the test unless it exits with 0."""
        return self._run(*self._command.split(), *words)

    def container(self, service: str) -> Container:
        """As it is now."""
        project = self._environment["COMPOSE_PROJECT_NAME"]
        labels = [f"com.docker.compose.project={project}", f"com.docker.compose.service={service}"]
        [found] = self._client.containers.list(all=True, filters={"label": labels})
        return found

    @contextmanager
    def one_instance(self) -> Iterator[tuple[Container, str]]:
        """A container of the image with the store in its volume, and no Kafka; and its URL."""
        port = free_port()
        container = self._client.containers.run(
            SERVICE_IMAGE,
            "serve shop:app",
            detach=True,
            environment={"AWAKEABLES_INSECURE": "true"},
            init=True,
            labels={OWNER_LABEL: f"{socket.gethostname()}:{RUN}"},
            ports={"8080/tcp": (LOOPBACK, port)},
            read_only=True,
            tmpfs={"/tmp": ""},
            volumes=[f"{ROOT}/examples:/app:ro"],
        )
        try:
            yield container, f"http://{LOOPBACK}:{port}"
        finally:
            container.remove(force=True, v=True)

    def health(self, service: str) -> str:
        """starting, healthy or unhealthy."""
        return str(self.container(service).attrs["State"]["Health"]["Status"])

    def run_in(self, service: str, *command: str) -> tuple[int, str]:
        """The exit code and the output of a command in the service's container."""
        code, output = run_in_container(self.container(service), *command)
        return code, output.decode()

    def _run(self, *command: str, **environment: str) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=UP_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-5000:]}"
        return done.stdout

    def _remove_orphans(self) -> None:
        names = {
            container.labels.get("com.docker.compose.project", "")
            for container in self._client.containers.list(all=True, ignore_removed=True)
        }
        for name in names:
            owner = re.fullmatch(rf"{PROJECT}(\d+)", name)
            if owner and not Path(f"/proc/{owner[1]}").exists():
                self._run(*self._command.split(), "down", "--volumes", COMPOSE_PROJECT_NAME=name)
