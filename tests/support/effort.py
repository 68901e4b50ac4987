"""How much the tests try: enough for `make test`; `.ci/run` asks for more by these variables."""

from __future__ import annotations

import os

SIM_SEEDS = int(os.environ.get("SIM_SEEDS", "100"))
"""Runs of the simulated world; so many find each guard that is taken away, too."""

CHAOS_KILLS = int(os.environ.get("CHAOS_KILLS", "6"))
"""Processes that are killed in one run under load."""

FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
"""Requests per operation of the HTTP interface, as told and not as told each."""
