"""Reads a whole store, once and in order, and holds every invariant against its rows.

Memory is bounded: of each journal only its awakeables and digests of their outcomes are kept, until the rows
of about a thousand awakeables are looked up together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import EFFECT_STATES
from awakeables.core.ids import is_invocation
from awakeables.core.instances import Instance
from awakeables.core.invariants.awakeables import awakeable_violations
from awakeables.core.invariants.findings import Findings, Violation
from awakeables.core.invariants.invocations import (
    Awaited,
    Story,
    awakeables_violations,
    call_violations,
    invocation_violations,
    journal_violations,
    orphan_violations,
    owner_violations,
)
from awakeables.core.invariants.objects import Lines
from awakeables.core.invariants.records import (
    Places,
    dead_letter_violations,
    effect_violations,
    key_violations,
    may_be_gone,
    position_violations,
    stream_violations,
    task_of,
    task_violations,
)
from awakeables.core.invocations import Invocation
from awakeables.core.rows import Chunk, EffectRow
from awakeables.ports import Audit, Pages, Snapshot

T = TypeVar("T")

TOGETHER = 1000
"""Rows that are looked up with one query."""


async def verify(audit: Audit, *, retention_ms: int) -> Findings:
    """Check all rows of a store as of one instant.

    Args:
        audit: The store.
        retention_ms: What an ID names that is older than this may have been deleted.
    """
    return await audit.look(partial(verify_rows, retention_ms=retention_ms))


async def verify_rows(snapshot: Snapshot, *, retention_ms: int) -> Findings:
    """Check all rows of a snapshot."""
    findings = Findings()
    reached = await _Invocations(snapshot, findings).check()
    await _awakeables(snapshot, findings)
    if reached != findings.rows["awakeables"]:
        # Only then it is worth reading the journals again, to find out which are not reached.
        await _orphaned_awakeables(snapshot, findings)
    await _keys(snapshot, findings)
    gone = partial(may_be_gone, now_ms=snapshot.now_ms, retention_ms=retention_ms)
    for state in EFFECT_STATES:
        places = Places()
        async for page in snapshot.effects(state):
            await _effects(snapshot, page, places, findings, gone)
    await _dead_letters(snapshot, findings)
    async for positions in snapshot.positions():
        findings.rows["positions"] += len(positions)
        findings.look("K1", count=len(positions))
        for position in positions:
            findings.add(position_violations(position))
    return findings


class _Invocations:
    """Merges invocations with their journals, both by ID, and looks up the awakeables of many together."""

    def __init__(self, snapshot: Snapshot, findings: Findings) -> None:
        self._snapshot = snapshot
        self._findings = findings
        self._instances: dict[str, Instance] = {}
        self._lines = Lines()
        self._stories: list[Story] = []
        self._created = 0
        self._reached = 0

    async def check(self) -> int:
        """Check all; return how many awakeables' rows their journals name."""
        findings = self._findings
        self._instances = {each.id: each for each in await self._snapshot.instances()}
        journals = Journals(self._snapshot.chunks(), findings)
        async for page in self._snapshot.invocations():
            findings.rows["invocations"] += len(page)
            findings.look("O1", "O3", "J1", "case 1", "case 4", "case 12", count=len(page))
            for row in page:
                findings.add(invocation_violations(row))
                findings.add(self._lines.see(row))
                findings.add(owner_violations(row, self._instances, self._snapshot.now_ms))
                story = Story(row=replace(row, result_json=None, key_utf8=None))
                findings.add(journal_violations(story, await journals.of(row.id)))
                findings.look("J2", count=story.deliveries)
                findings.look("J3", count=story.runs)
                self._stories.append(story)
                self._created += len(story.created)
                if max(self._created, len(self._stories)) >= TOGETHER:
                    await self._check_awakeables()
        await self._check_awakeables()
        await journals.finish()
        async for queues in self._snapshot.objects():
            findings.rows["queues of keys"] += len(queues)
            for queue in queues:
                findings.add(self._lines.check(queue))
        findings.add(self._lines.left())
        return self._reached

    async def _check_awakeables(self) -> None:
        """Look up the awakeables of the stories so far, each story's with its own."""
        stories, self._stories, self._created = self._stories, [], 0
        wanted = [awakeable_id for story in stories for awakeable_id in story.created]
        found: dict[str, Awaited] = {}
        for ids in _parts(wanted):
            async for page in self._snapshot.awakeables_with(ids):
                found |= {row.id: Awaited.of(row) for row in page}
        self._findings.look("A3", count=len(wanted))
        for story in stories:
            self._reached += sum(
                found[key].invocation_id == story.row.id for key in story.created if key in found
            )
            self._findings.add(awakeables_violations(story, found))


class Journals:
    """All journals, in the order of their invocations."""

    def __init__(self, pages: Pages[Chunk], findings: Findings) -> None:
        self._chunks = _each(pages)
        self._findings = findings
        self._next: Chunk | None = None

    async def of(self, invocation_id: str) -> list[tuple[int, bytes]]:
        """The chunks of this invocation, with their versions; those before it belong to none."""
        journal: list[tuple[int, bytes]] = []
        while (chunk := await self._peek()) is not None and chunk.invocation_id <= invocation_id:
            if chunk.invocation_id == invocation_id:
                journal.append((chunk.version, chunk.content))
            else:
                self._orphaned(chunk)
            self._next = None
        return journal

    async def finish(self) -> None:
        """Report what is left: it belongs to no invocation."""
        while (chunk := await self._peek()) is not None:
            self._orphaned(chunk)
            self._next = None

    async def _peek(self) -> Chunk | None:
        if self._next is None:
            self._next = await anext(self._chunks, None)
            if self._next is not None:
                self._findings.rows["journal chunks"] += 1
                self._findings.look("case 8")
        return self._next

    def _orphaned(self, chunk: Chunk) -> None:
        text = f"has version {chunk.version} of a journal, and does not exist"
        self._findings.add([Violation(invariant="case 8", id=chunk.invocation_id, text=text)])


async def _awakeables(snapshot: Snapshot, findings: Findings) -> None:
    schemas = await snapshot.schema_hashes()
    async for page in snapshot.awakeables():
        findings.rows["awakeables"] += len(page)
        findings.look("A1", "A2", "A4", "case 8", count=len(page))
        findings.task_topics |= {row.topic for row in page if row.topic is not None}
        for row in page:
            findings.add(awakeable_violations(row, schemas))
        await _calls(snapshot, page, findings)


async def _calls(snapshot: Snapshot, page: Sequence[AwakeableRow], findings: Findings) -> None:
    """Hold waits for calls against the calls."""
    calls_of = [row for row in page if is_invocation(row.source)]
    waits = [row for row in calls_of if row.state in ("pending", "cancelled")]
    calls: dict[str, Invocation] = {}
    for ids in _parts(sorted({row.source or "" for row in waits})):
        async for found in snapshot.invocations_with(ids):
            calls |= {row.id: row for row in found}
    for row in waits:
        findings.add(call_violations(row, calls.get(row.source or "")))


async def _orphaned_awakeables(snapshot: Snapshot, findings: Findings) -> None:
    """Find the awakeables that no journal of their invocation names."""
    async for page in snapshot.awakeables():
        owners = sorted({row.invocation_id for row in page})
        existing = await snapshot.versions(owners)
        journals: dict[str, list[bytes]] = {invocation_id: [] for invocation_id in existing}
        async for chunks in snapshot.chunks_of(list(existing)):
            for chunk in chunks:
                journals[chunk.invocation_id].append(chunk.content)
        for row in page:
            findings.add(orphan_violations(row, journals.get(row.invocation_id)))


async def _keys(snapshot: Snapshot, findings: Findings) -> None:
    async for page in snapshot.idempotency_keys():
        findings.rows["idempotency keys"] += len(page)
        findings.look("case 8", count=len(page))
        existing = await snapshot.versions([key.invocation_id for key in page])
        for key in page:
            findings.add(key_violations(key, existing))


async def _effects(
    snapshot: Snapshot,
    page: Sequence[EffectRow],
    places: Places,
    findings: Findings,
    gone: Callable[[str], bool],
) -> None:
    findings.rows["records to publish"] += len(page)
    findings.look("K3", count=len(page))
    tasks = {row.event_id: task for row in page if (task := task_of(row)) is not None}
    versions = await snapshot.versions([row.stream for row in page if row.kind in ("task", "event")])
    awakeables: dict[str, Awaited] = {}
    async for found in snapshot.awakeables_with([task.awakeable_id for task in tasks.values()]):
        awakeables |= {row.id: Awaited.of(row) for row in found}
    for row in page:
        findings.add(effect_violations(row))
        findings.add(places.see(row))
        if row.kind in ("task", "event"):
            findings.add(stream_violations(row, versions.get(row.stream), gone=gone))
        task = tasks.get(row.event_id)
        if task is not None:
            findings.look("A3", *(("case 9",) if row.state == "failed" else ()))
            findings.add(task_violations(row, task, awakeables.get(task.awakeable_id), gone=gone))


async def _dead_letters(snapshot: Snapshot, findings: Findings) -> None:
    before: DeadLetter | None = None
    async for page in snapshot.dead_letters():
        findings.rows["dead letters"] += len(page)
        findings.look("K2", count=len(page))
        for letter in page:
            findings.add(dead_letter_violations(letter, before))
            before = letter


def _parts(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[at : at + TOGETHER] for at in range(0, len(ids), TOGETHER)]


async def _each(pages: Pages[T]) -> AsyncIterator[T]:
    async for page in pages:
        for row in page:
            yield row
