"""What every test shares: quiet logs, and no background error that goes unseen."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import structlog
import typer.main
import typer.testing
from hypothesis import HealthCheck, settings

from awakeables.cli import doctor, options
from support.real_postgres import EmptyDatabase, delete_rows, reason_real_postgres_is_missing
from support.this_run import SHARED_KAFKA, SHARED_POSTGRES

# How long an example takes tells of the machine and of what else it does.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def quiet_logs() -> Iterator[None]:
    """Nothing is logged; a command that is run in this process would set up its logs for good."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with (
        mock.patch.object(doctor, "configure_logs"),
        mock.patch.object(options, "configure_logs"),
    ):
        yield


@pytest.fixture(scope="session")
def shared_database() -> Iterator[str]:
    """The URL of a database of this process, on the server of the run; skipped, or failed, without one."""
    from support.shared_postgres import shared_postgres

    if reason := reason_real_postgres_is_missing():
        if os.environ.get("REQUIRE_REAL_POSTGRES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with shared_postgres().database() as url:
        yield url


@pytest.fixture
def empty_database(shared_database: str) -> EmptyDatabase:
    """Empties the database of this process and returns its URL."""

    async def emptied() -> str:
        await delete_rows(shared_database)
        return shared_database

    return emptied


@pytest.fixture
async def postgres_url(empty_database: EmptyDatabase) -> str:
    """The URL of a database with our tables and no rows."""
    return await empty_database()


@pytest.fixture(autouse=True, scope="session")
def one_command_tree() -> Iterator[None]:
    """The commands that run in this process share one tree; typer builds it anew for each of them."""
    tree = functools.cache(typer.main.get_command)
    with (
        mock.patch.object(typer.main, "get_command", tree),
        mock.patch.object(typer.testing, "_get_command", tree),
    ):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is made here lives as long as the process; no collection need ever look at it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from support.distribution import ByFile

    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        from support.distribution import rank

        items.sort(key=rank)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The servers that the workers of a run share end with the run."""
    if SHARED_KAFKA.exists() and not hasattr(config, "workerinput"):
        from support.shared_kafka import stop_shared_kafka

        stop_shared_kafka()
    if SHARED_POSTGRES.exists() and not hasattr(config, "workerinput"):
        from support.shared_postgres import stop_shared_postgres

        stop_shared_postgres()
