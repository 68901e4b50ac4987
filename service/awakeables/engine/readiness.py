"""Readiness: whether work is accepted, and what is degraded although it is.

A load balancer that gets "not ready" sends no more requests, so only problems that keep calls from being
accepted may cause it. While Kafka is down, calls are accepted and kept in the store: that is degraded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

STOPS_WORK: Final = frozenset({"store", "service"})
"""Names of the problems during which no work is accepted; all others only degrade the service."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """The current problems by name: `problems` keep work from being accepted, `degraded` do not."""

    problems: Mapping[str, str]
    degraded: Mapping[str, str]

    @property
    def is_ready(self) -> bool:
        """Whether work is accepted."""
        return not self.problems

    @classmethod
    def of(cls, board: Mapping[str, str]) -> Readiness:
        """Sort the current problems."""
        return cls(
            problems={name: text for name, text in board.items() if name in STOPS_WORK},
            degraded={name: text for name, text in board.items() if name not in STOPS_WORK},
        )

    def without_details(self, instead: str) -> Readiness:
        """The same problems with this text for each, except that of the service itself."""
        return Readiness(
            problems={name: text if name == "service" else instead for name, text in self.problems.items()},
            degraded=dict.fromkeys(self.degraded, instead),
        )
