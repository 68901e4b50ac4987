"""Every handler here is run twice: with a crash and a replay at every await, and as in production."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from awakeables.testing import Run
from awakeables.testing import run as run_in_memory

Runs = Callable[..., Run]


@pytest.fixture(params=[True, False], ids=["always-suspend", "live"])
def run(request: pytest.FixtureRequest) -> Runs:
    return functools.partial(run_in_memory, suspend=request.param)
