"""How the tests of one run are shared out among its workers.

Not by `--dist loadgroup`: with pytest 9.2 pytest-xdist 3.8 loses the marks of its groups
(https://github.com/pytest-dev/pytest-xdist/issues/1386), and each worker started each module's broker.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

LONGEST_FIRST = (
    "tests/e2e/test_compose.py",
    "tests/integration/test_chaos_real.py",
    "tests/integration/test_kills_real.py",
    "tests/integration/test_kafka_security.py",
    "tests/integration/",
    "tests/e2e/",
    "tests/simulation/",
)
"""What begins early, or the run would wait for it in the end. Everything else is short."""


def rank(item: pytest.Item) -> int:
    """The place of an item in the order in which work is given out."""
    places = (n for n, path in enumerate(LONGEST_FIRST) if item.nodeid.startswith(path))
    return next(places, len(LONGEST_FIRST))


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """A file is run by one worker, which starts its brokers and processes once."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        # Each of these computes for seconds, and they share nothing.
        return nodeid if path.startswith("tests/simulation/") else path
