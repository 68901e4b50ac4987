"""Test handlers without a broker and without waiting: `awakeables.testing.run`."""

from awakeables.testing.answers import Answer, PendingAwakeable, WrongAnswer
from awakeables.testing.kit import Paused, Run, Stuck, run
from awakeables.testing.outside import Published

__all__ = ["Answer", "Paused", "PendingAwakeable", "Published", "Run", "Stuck", "WrongAnswer", "run"]
