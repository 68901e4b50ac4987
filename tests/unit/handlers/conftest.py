"""Every handler here is run three times: with a crash and a replay at every await, as in production, and
by attempts that are rebuilt from JSON for each step."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from awakeables.handlers.stateless import StatelessAttempts
from awakeables.testing import Run, simulated
from awakeables.testing import run as run_in_memory

Runs = Callable[..., Run]


@pytest.fixture(params=["always-suspend", "live", "stateless"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Runs:
    if request.param == "stateless":
        monkeypatch.setattr(simulated, "LocalAttempts", StatelessAttempts)
    return functools.partial(run_in_memory, suspend=request.param == "always-suspend")
