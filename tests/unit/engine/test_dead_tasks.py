"""A task that a worker could not use: seen where the wait is, filed once, sent to its own topic only."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from awakeables.core.awakeables import AwakeableRow, Completion, DeadTask
from awakeables.core.deadletters import DeadLetter
from awakeables.engine.readtopic import FoldingSettings
from awakeables.errors import NotPossible
from awakeables.testing.bench import Bench, Process, quick, until
from awakeables.testing.loop import STARTED_MS
from awakeables.wire.completions import encode_completion
from awakeables.wire.dead_tasks import MOST_CONTENT_BYTES
from awakeables.wire.tasks import encode_effect
from support.ids import new_id
from unit.engine.harness import TOPIC, resolution, value, wait

PACKED_AT = {"partition": 2, "offset": 17, "timestamp_ms": STARTED_MS}


async def waiting(bench: Bench, process: Process) -> AwakeableRow:
    """An awakeable whose task is out."""
    row = await bench.awakeable(await bench.begin(process, "wait"))
    await until(lambda: bench.broker.values("pack"))
    return bench.store.tables.awakeables[row.id]


def dead_task(bench: Bench, topic: str = "pack", **fields: Any) -> DeadTask:
    """The task that was published, as a worker found it."""
    content, headers = encode_effect(bench.broker.published[0])
    facts = {"code": "invalid", "reason": "the payload does not fit", "topic": topic} | PACKED_AT
    return DeadTask(**(facts | {"key": b"k", "value": content, "headers": tuple(headers)} | fields))


def report(awakeable_id: str, task: DeadTask) -> bytes:
    return encode_completion(
        Completion(
            awakeable_id=awakeable_id,
            body=task,
            source="",
            worker="packer",
            event_id="pack:2:17",
        )
    )


def letters(bench: Bench) -> list[DeadLetter]:
    return list(bench.store.tables.dead_letters.values())


async def test_case_w14_a_task_that_a_worker_could_not_use_is_a_dead_letter_where_the_wait_is() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await waiting(bench, process)).id
        task = dead_task(bench)
        await bench.records(process, report(key, task))
        [letter] = letters(bench)
        assert (letter.code, letter.awakeable_id, letter.topic) == ("unusable-task", key, "pack")
        assert letter.reason == "worker 'packer': invalid: the payload does not fit"
        assert (letter.key, letter.value, letter.headers) == (task.key, task.value, task.headers)
        row = bench.store.tables.awakeables[key]
        assert (row.state, row.verdicts.counts) == ("pending", {})
        assert row.verdicts.dead_task is not None
        assert (row.verdicts.dead_task.dead_letter_id, row.verdicts.dead_task.worker) == (letter.id, "packer")
        counted = process.engine.metrics.registry.get_sample_value
        assert counted("awakeables_dead_letters_total", {"code": "unusable-task"}) == 1
        assert counted("awakeables_heartbeats_total", {"origin": "kafka"}) == 0
        await bench.records(process, resolution(key))
        row = bench.store.tables.awakeables[key]
        assert (row.state, row.verdicts.dead_task is not None) == ("resolved", True)


async def test_case_w14_the_worker_s_copy_is_not_copied_to_the_topic_of_dead_completions() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await waiting(bench, process)).id
        await bench.records(process, report(key, dead_task(bench)))
        await until(lambda: process.engine.relay.idle)
        assert [effect.topic for effect in bench.broker.published] == ["pack"]


async def test_case_w14_a_task_that_is_reported_twice_is_filed_once() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await waiting(bench, process)).id
        told = report(key, dead_task(bench))
        await bench.records(process, told, told)
        before = bench.store.tables.awakeables[key], letters(bench)
        await process.engine.completions.skip(0, 2, 0)
        skipped = {letter.id for letter in letters(bench) if letter.code == "skipped"}
        await bench.records(process, told, told)
        left = [letter for letter in letters(bench) if letter.id not in skipped]
        assert (bench.store.tables.awakeables[key], left) == before
        assert len(left) == 1


async def test_case_w14_of_two_places_of_a_task_both_are_filed_and_the_last_is_shown() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await waiting(bench, process)).id
        task = dead_task(bench)
        await bench.records(process, report(key, task), report(key, replace(task, offset=18)))
        [_, last] = letters(bench)
        entry = bench.store.tables.awakeables[key].verdicts.dead_task
        assert entry is not None
        assert entry.dead_letter_id == last.id


async def test_case_w14_a_report_of_what_nobody_waits_for_is_late_or_unknown() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await waiting(bench, process)).id
        task = dead_task(bench)
        never = new_id("prom", at_ms=STARTED_MS, entropy=bytes(10))
        content = [(name, never.encode() if name == "awakeable-id" else text) for name, text in task.headers]
        bare = replace(task, value=b"1", headers=tuple(content))
        await bench.records(process, resolution(key), report(key, task), report(never, bare))
        assert bench.store.tables.awakeables[key].verdicts.counts == {"accepted": 1, "late": 1}
        assert [(letter.code, letter.topic) for letter in letters(bench)] == [("unknown", TOPIC)]


def of_another_awakeable(task: DeadTask) -> DeadTask:
    other = new_id("prom", at_ms=STARTED_MS, entropy=bytes(10)).encode()
    return replace(task, value=b"1", headers=(*task.headers, ("awakeable-id", other)))


def answered_elsewhere(task: DeadTask) -> DeadTask:
    record = msgspec.json.decode(task.value or b"") | {"reply_to": "other.completions"}
    named = ("awakeable-reply-to", b"other.completions")
    return replace(task, value=msgspec.json.encode(record), headers=(*task.headers, named))


@pytest.mark.parametrize("forged", [of_another_awakeable, answered_elsewhere])
async def test_case_w14_a_report_of_another_wait_s_task_is_invalid(forged: Any) -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await waiting(bench, process)).id
        await bench.records(process, report(key, forged(dead_task(bench))))
        [letter] = letters(bench)
        assert (letter.code, letter.topic, letter.awakeable_id) == ("invalid", TOPIC, key)
        row = bench.store.tables.awakeables[key]
        assert (row.state, row.verdicts.counts, row.verdicts.dead_task) == ("pending", {"invalid": 1}, None)


async def test_case_w14_the_task_is_sent_again_to_its_own_topic() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        row = await waiting(bench, process)
        task = dead_task(bench)
        await bench.records(process, report(row.id, task))
        [letter] = letters(bench)
        effect = await process.api.resend(letter.id)
        await until(lambda: len(bench.broker.published) == 2)
        assert (effect.topic, encode_effect(effect)) == ("pack", (task.value, list(task.headers)))
        await bench.records(process, resolution(row.id))
        assert value(await bench.status(row.invocation_id, "completed")) == 7


async def test_case_w14_a_forged_report_makes_no_operator_publish_elsewhere() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await waiting(bench, process)).id
        await bench.records(process, report(key, dead_task(bench, topic="payments")))
        [letter] = letters(bench)
        with pytest.raises(NotPossible, match=r"not sent to topic 'payments': .* went was topic 'pack'"):
            await process.api.resend(letter.id)
        assert letters(bench) == [letter]
        assert [effect.topic for effect in bench.broker.published] == ["pack"]


async def test_case_w14_a_task_whose_wait_has_ended_is_not_done_in_vain() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await waiting(bench, process)).id
        await bench.records(process, report(key, dead_task(bench)), resolution(key))
        with pytest.raises(NotPossible, match=f"awakeable {key} is resolved: nothing waits"):
            await process.api.resend(letters(bench)[0].id)


async def test_case_w14_a_task_that_is_too_large_is_reported_without_its_bytes() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await waiting(bench, process)).id
        told = report(key, dead_task(bench, value=b"x" * MOST_CONTENT_BYTES))
        assert len(told) < 1000
        await bench.records(process, told)
        [letter] = letters(bench)
        assert (letter.code, letter.value, letter.offset) == ("unusable-task", None, 17)
        with pytest.raises(NotPossible, match=r"were not kept.* offset 17 of partition 2 of pack"):
            await process.api.resend(letter.id)


async def test_case_o4_a_worker_that_reports_one_task_without_end_fills_no_file() -> None:
    bench = Bench()
    settings = dataclasses.replace(quick(), folding=FoldingSettings(letters=10, bytes=100_000))
    async with bench.serving(settings, wait=wait) as process:
        key = (await waiting(bench, process)).id
        task = dead_task(bench)
        for begin in range(0, 3000, 1000):
            told = [report(key, replace(task, offset=n)) for n in range(begin, begin + 1000)]
            await bench.records(process, *told)
        assert [letter.code for letter in letters(bench)] == ["unusable-task"] * 10 + ["folded"]
        folded = letters(bench)[-1]
        assert (folded.topic, folded.offset, folded.last_offset, folded.count) == (TOPIC, 10, 2999, 2990)
        entry = bench.store.tables.awakeables[key].verdicts.dead_task
        assert entry is not None
        assert entry.dead_letter_id == folded.id
        counted = process.engine.metrics.registry.get_sample_value
        assert counted("awakeables_dead_letters_total", {"code": "unusable-task"}) == 3000
        await bench.records(process, resolution(key))
        assert bench.store.tables.awakeables[key].state == "resolved"


async def test_case_o4_a_report_that_was_folded_is_filed_when_it_is_read_again() -> None:
    bench = Bench()
    settings = dataclasses.replace(quick(), folding=FoldingSettings(letters=1, bytes=100_000))
    async with bench.serving(settings, wait=wait) as process:
        key = (await waiting(bench, process)).id
        task = dead_task(bench)
        told = [report(key, replace(task, offset=n)) for n in range(2)]
        await bench.records(process, *told)
        await asyncio.sleep(60)
        await process.engine.completions.skip(0, 2, 0)
        await bench.records(process, *told)
        filed = [letter for letter in letters(bench) if letter.code == "unusable-task"]
        assert [letter.offset for letter in filed] == [0, 1]
        entry = bench.store.tables.awakeables[key].verdicts.dead_task
        assert entry is not None
        assert entry.dead_letter_id == filed[1].id
