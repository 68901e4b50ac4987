"""What readiness says: whether work is taken, and what is degraded although it is.

A load balancer that gets "not ready" sends nothing more, so only what keeps calls from being
taken may say that. While Kafka is away calls are taken and kept in the store: that is degraded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

STOPS_WORK: Final = frozenset({"store", "service"})
"""Names of problems while which no work is accepted; all others only degrade the service."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What is wrong now, by name: what keeps work from being taken, and what only degrades it."""

    problems: Mapping[str, str]
    degraded: Mapping[str, str]

    @property
    def is_ready(self) -> bool:
        """Is work taken?"""
        return not self.problems

    @classmethod
    def of(cls, board: Mapping[str, str]) -> Readiness:
        """Sort the problems that are reported now."""
        return cls(
            problems={name: text for name, text in board.items() if name in STOPS_WORK},
            degraded={name: text for name, text in board.items() if name not in STOPS_WORK},
        )

    def without_details(self, instead: str) -> Readiness:
        """The same problems by name, with this text for each; what the service says of itself stays."""
        return Readiness(
            problems={name: text if name == "service" else instead for name, text in self.problems.items()},
            degraded=dict.fromkeys(self.degraded, instead),
        )
