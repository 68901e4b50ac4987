"""Holds a store against Kafka: that completions which were read have verdicts, and tasks have awakeables.

Where the topics end is asked first, and the snapshot is taken afterwards: the row of each task that is
before the end was committed before. Completions are looked at as far as the snapshot's positions say that
they were read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from awakeables.core.awakeables import AwakeableRow, Completion
from awakeables.core.invariants.findings import Findings
from awakeables.core.invariants.records import may_be_gone
from awakeables.core.invariants.topics import Unjudged, lacks_verdict, task_record_violations
from awakeables.core.rows import PositionRow
from awakeables.core.sources import partition_sources
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.tolerant import Records
from awakeables.kafka.wholetopic import TopicEnd, WholeTopics, whole_topics
from awakeables.ports import Audit, Snapshot
from awakeables.wire.completions import Unreadable, decode_completion
from awakeables.wire.tasks import find_address

LATE_MS = 60_000
"""A record that is not published after so long is remarkable: Kafka was away, or the service is."""

MOST_DOUBTFUL = 10_000
"""Completions without a verdict that are remembered until the dead letters were looked through."""


class TopicVerification:
    """One comparison of a store with its topics; notes in `findings` what it finds."""

    def __init__(
        self, connection: KafkaConnection, findings: Findings, *, completions: str, retention_ms: int
    ) -> None:
        """Prepare.

        Args:
            connection: Where Kafka is.
            findings: Those of the store alone, which have the task topics.
            completions: The app's completions topic.
            retention_ms: An awakeable without a row whose ID is older than this was deleted.
        """
        self._connection = connection
        self._findings = findings
        self._completions = completions
        self._retention_ms = retention_ms
        self._doubtful: list[Unjudged] = []

    async def check(self, audit: Audit, *, max_unpacked_bytes: int) -> None:
        """Read all topics, and look up what their records name.

        Raises:
            BrokerUnavailable: Kafka can't be reached, or a topic can't be read to its end.
        """
        tasks = sorted(self._findings.task_topics)
        async with whole_topics(self._connection, max_unpacked_bytes=max_unpacked_bytes) as topics:
            ends = await topics.ends([self._completions, *tasks])
            self._findings.notes += [
                f"topic {topic} is missing" for topic in (self._completions, *tasks) if topic not in ends
            ]

            async def compare(snapshot: Snapshot) -> None:
                await self._late_records(snapshot)
                await self._check_completions(snapshot, topics, ends.get(self._completions))
                for topic in tasks:
                    if topic in ends:
                        await self._check_tasks(snapshot, topics, topic, ends[topic].offsets)

            await audit.look(compare)

    async def _late_records(self, snapshot: Snapshot) -> None:
        late = [
            row.event_id
            async for page in snapshot.effects("unsent")
            for row in page
            if snapshot.now_ms - row.created_ms > LATE_MS
        ]
        if late:
            many = "record has" if len(late) == 1 else "records have"
            self._findings.notes.append(
                f"{len(late)} {many} not been published for more than a minute, {min(late)} for the longest"
            )

    async def _check_completions(self, snapshot: Snapshot, topics: WholeTopics, end: TopicEnd | None) -> None:
        if end is None:
            return
        positions = [row async for page in snapshot.positions() for row in page]
        for row in positions:
            if row.topic != self._completions or row.partition not in end.offsets:
                continue
            if None not in (row.topic_id, end.topic_id) and row.topic_id != end.topic_id:
                self._findings.notes.append(
                    f"partition {row.partition} of {row.topic} was not compared: the topic was created again"
                )
                continue
            before = min(row.next, end.offsets[row.partition])
            async for records in topics.records(row.topic, row.partition, before):
                await self._judge(snapshot, row, records)
        await self._report_unjudged(snapshot)

    async def _judge(self, snapshot: Snapshot, position: PositionRow, records: Records) -> None:
        """Look for the verdicts on a page of completions."""
        source_at = partition_sources(position.topic, position.partition)
        read: list[tuple[int, Completion]] = []
        for record in records:
            source = source_at(record.offset, record.timestamp)
            try:
                completion = decode_completion(
                    record.value, headers=record.headers, key=record.key, source=source
                )
            except Unreadable:
                continue
            read.append((record.offset, completion))
        rows = await _rows(snapshot, [completion.awakeable_id for _, completion in read])
        self._findings.look("A2", count=len(read))
        for offset, completion in read:
            row = rows.get(completion.awakeable_id)
            if row is not None and lacks_verdict(row, completion) and len(self._doubtful) < MOST_DOUBTFUL:
                self._doubtful.append(
                    Unjudged(
                        awakeable_id=row.id,
                        state=row.state,
                        topic=position.topic,
                        partition=position.partition,
                        offset=offset,
                    )
                )

    async def _report_unjudged(self, snapshot: Snapshot) -> None:
        """Report the completions without a verdict that are no dead letters either."""
        if not self._doubtful:
            return
        left = self._doubtful
        async for page in snapshot.dead_letters():
            for letter in page:
                left = [each for each in left if not each.is_explained_by(letter)]
        self._findings.add(each.violation for each in left)

    async def _check_tasks(
        self, snapshot: Snapshot, topics: WholeTopics, topic: str, ends: Mapping[int, int]
    ) -> None:
        """Look up the awakeables of the tasks that are answered to this app."""
        for partition, end in ends.items():
            async for records in topics.records(topic, partition, end):
                named: dict[str, int] = {}
                for record in records:
                    address = find_address(record.value, record.headers)
                    if address is not None and address.reply_to == self._completions:
                        named.setdefault(address.awakeable_id, record.offset)
                rows = await _rows(snapshot, list(named))
                self._findings.look("A3", count=len(named))
                for awakeable_id, offset in named.items():
                    place = f"offset {offset} of partition {partition} of {topic}"
                    gone = may_be_gone(awakeable_id, now_ms=snapshot.now_ms, retention_ms=self._retention_ms)
                    self._findings.add(
                        task_record_violations(awakeable_id, place, exists=awakeable_id in rows, gone=gone)
                    )


async def _rows(snapshot: Snapshot, awakeable_ids: Sequence[str]) -> dict[str, AwakeableRow]:
    """The rows of these awakeables, without their values."""
    rows: dict[str, AwakeableRow] = {}
    async for page in snapshot.awakeables_with(awakeable_ids):
        rows |= {row.id: replace(row, outcome_json=None, heartbeat_json=None) for row in page}
    return rows
