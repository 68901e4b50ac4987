"""Tests without a broker and without waiting: `run` a handler, serve an app (`Harness`), `replay`."""

from awakeables.extras import extra

with extra("service", "the testing kit needs"):
    from awakeables.testing.answers import Answer, PendingAwakeable, WrongAnswer
    from awakeables.testing.asyncharness import AsyncHarness, AsyncRunning, AsyncSentTask
    from awakeables.testing.harness import Harness, SentTask
    from awakeables.testing.kit import Run, run
    from awakeables.testing.outside import Published
    from awakeables.testing.replaying import Replayed, replay
    from awakeables.testing.running import Running, WaitingAwakeable
    from awakeables.testing.stuck import Paused, Stuck
    from awakeables.testing.usercode import Endless

__all__ = [
    "Answer",
    "AsyncHarness",
    "AsyncRunning",
    "AsyncSentTask",
    "Endless",
    "Harness",
    "Paused",
    "PendingAwakeable",
    "Published",
    "Replayed",
    "Run",
    "Running",
    "SentTask",
    "Stuck",
    "WaitingAwakeable",
    "WrongAnswer",
    "replay",
    "run",
]
