"""What every test shares: quiet logs, and no background error that goes unseen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import structlog

from awakeables.cli import doctor, options
from support.this_run import SHARED_KAFKA


@pytest.fixture(autouse=True, scope="session")
def quiet_logs() -> Iterator[None]:
    """Nothing is logged; a command that is run in this process would set up its logs for good."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with (
        mock.patch.object(doctor, "configure_logs"),
        mock.patch.object(options, "configure_logs"),
    ):
        yield


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from support.distribution import ByFile

    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        from support.distribution import rank

        items.sort(key=rank)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The broker that the workers of a run share ends with the run."""
    if SHARED_KAFKA.exists() and not hasattr(config, "workerinput"):
        from support.shared_kafka import stop_shared_kafka

        stop_shared_kafka()
