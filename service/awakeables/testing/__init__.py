"""Test handlers without a broker and without waiting: `awakeables.testing.run`."""

from awakeables.testing.kit import Paused, Published, Run, Stuck, run

__all__ = ["Paused", "Published", "Run", "Stuck", "run"]
