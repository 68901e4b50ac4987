"""What is loaded ahead for a group of orders covers what is decided on, whatever the engine asks for."""

from __future__ import annotations

import pytest

from simulation import world
from simulation.invariants import violations
from simulation.world import simulate
from support.effort import some
from support.loading import LOADED_LATE, LoadingStore


def test_no_decision_of_a_run_loads_a_row_after_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "MemoryStore", LoadingStore)
    for seed in range(some(6)):
        run = simulate(seed)
        assert violations(run) == []
        assert isinstance(run.store, LoadingStore)
        assert run.store.missed <= LOADED_LATE
