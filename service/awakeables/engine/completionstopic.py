"""The completions topic as this process reads it.

Of the verdicts that settle nothing, only the first of each minute and partition are published, as only the
first dead letters are kept (`readtopic.py`).
"""

from __future__ import annotations

from collections.abc import Collection

from awakeables.core.awakeables import Completion, DeadTask
from awakeables.core.deadletters import DeadLetter, dead_letter_of_task
from awakeables.core.texts import shortened
from awakeables.engine.horizon import Horizon, Moment
from awakeables.engine.readtopic import ProblemNames, Reading, ReadMetrics, ReadTopic
from awakeables.engine.settlement import PayloadValidator, Settlement
from awakeables.engine.sinks import CompletionSink

PROBLEMS = ProblemNames(
    broker="broker", topic="completions topic", group="consumer group", partition="partition"
)


class CompletionsTopic(ReadTopic):
    """The completions topic.

    Attributes:
        settlement: Settles the completions.
        validator: Validates their values.
        horizon: What deadlines are compared with.
    """

    def __init__(
        self,
        reading: Reading,
        settlement: Settlement,
        validator: PayloadValidator,
        horizon: Horizon,
        *,
        name: str,
    ) -> None:
        """Begin with no partition read.

        Args:
            reading: What the reading of every topic needs.
            settlement: Settles completions.
            validator: Validates their values.
            horizon: What deadlines are compared with.
            name: The topic's name.
        """
        metrics = reading.metrics
        shown = ReadMetrics(
            lag=metrics.consumer_lag.labels,
            behind_s=metrics.consumer_behind_s.labels,
            transaction_s=metrics.consumer_transaction_s.labels,
            expired=metrics.records_expired,
        )
        super().__init__(reading, name=name, subscription="", problems=PROBLEMS, shown=shown)
        self.settlement = settlement
        self.validator = validator
        self.horizon = horizon

    @property
    def readable(self) -> int:
        """The number of unread records that can be read: not behind what stops their partition."""
        return sum(state.lag or 0 for state in self.readers.values() if not state.is_stopped)

    def sink(self, partition: int) -> CompletionSink:
        """As `ReadTopic.sink`."""
        return CompletionSink(self, partition)

    def how_to_begin_again(self, partition: int) -> str:
        """As `ReadTopic.how_to_begin_again`."""
        return f"`awakeables offsets skip {partition} --to 0`"

    def note_topic(self, partitions: Collection[int], asked: Moment, topic_id: str | None) -> None:
        """As `ReadTopic.note_topic`: deadlines wait until each partition has been read."""
        super().note_topic(partitions, asked, topic_id)
        self.horizon.expect(partitions, asked, topic_id=topic_id)

    def dead_task(self, completion: Completion, task: DeadTask) -> DeadLetter:
        """Make the dead letter to file for a task that its worker could not use."""
        return dead_letter_of_task(
            task,
            letter_id=self.ids.new("dlq"),
            awakeable_id=completion.awakeable_id,
            worker=shortened(completion.worker or "unnamed"),
            now_ms=self.clock.now_ms(),
        )
