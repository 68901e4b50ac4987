"""How much the tests try: enough for `make test`; `.ci/run` asks for more by these variables."""

from __future__ import annotations

import os

SIM_SEEDS = int(os.environ.get("SIM_SEEDS", "100"))
"""Runs of the simulated world; so many find each guard that is taken away, too."""


def some(most: int) -> int:
    """So many of what is drawn at random: `most`, or fewer if fewer runs are asked for."""
    return -(-most * min(SIM_SEEDS, 100) // 100)


CHAOS_KILLS = int(os.environ.get("CHAOS_KILLS", "6"))
"""Processes that are killed in one run under load."""

CHAOS_CALLS = int(os.environ.get("CHAOS_CALLS", "150"))
"""Calls to two instances in one run."""

CHAOS_FAULTS = int(os.environ.get("CHAOS_FAULTS", "3"))
"""What is done meanwhile to them, workers, PostgreSQL and Kafka."""

FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", some(5)))
"""Requests per operation of the HTTP interface, as told and not as told each."""
