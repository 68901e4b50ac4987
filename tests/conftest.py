"""What every test shares: quiet logs, and no background error that goes unseen."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import structlog

from awakeables.cli import checking, options


@pytest.fixture(autouse=True, scope="session")
def quiet_logs() -> Iterator[None]:
    """Nothing is logged; a command that is run in this process would set up its logs for good."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with (
        mock.patch.object(checking, "configure_logs"),
        mock.patch.object(options, "configure_logs"),
    ):
        yield
