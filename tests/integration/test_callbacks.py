"""The whole path over a real Kafka: task out, completion in, handler on; through restarts too."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from awakeables.core.outcomes import Rejection, Resolution
from awakeables.ports import Page, Store
from support.eventually import eventually
from support.service import (
    create_app_topics,
    new_app,
    new_store,
    produce,
    read_records,
    rejected,
    resolved,
    running,
)

if TYPE_CHECKING:
    from support.real_kafka import RealKafka, TopicFactory


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """SQLite, as in production, for most: tests/contract holds that the stores do the same."""
    return new_store(getattr(request, "param", "sqlite"), tmp_path)


BOTH_STORES = pytest.mark.parametrize("store", ["memory", "sqlite"], indirect=True)


@BOTH_STORES
async def test_a_published_task_is_answered_over_kafka_and_its_handler_returns(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    app = new_app()
    await create_app_topics(bootstrap, app)
    tasks = await topic("pack-requests", partitions=1)
    async with running(bootstrap, app, store) as shop:
        invocation_id = await shop.call("fulfil", topic=tasks, box="small")
        [task] = await read_records(bootstrap, tasks, 1)
        body = json.loads(task.value or b"")

        await produce(bootstrap, body["reply_to"], [resolved(body["awakeable_id"], {"parcel": "p-9"})])

        outcome = await shop.result(invocation_id)
    assert isinstance(outcome, Resolution)
    assert json.loads(outcome.content) == {"parcel": "p-9"}
    assert body["payload"] == {"topic": tasks, "box": "small"}
    assert task.key == body["awakeable_id"].encode()
    assert dict(task.headers)["awakeable-reply-to"] == app.completions_topic.encode()


async def test_a_rejection_over_kafka_fails_the_handler_with_its_reason(bootstrap: str, store: Store) -> None:
    app = new_app()
    await create_app_topics(bootstrap, app)
    async with running(bootstrap, app, store) as shop:
        [awakeable_id] = await shop.pending()
        await produce(bootstrap, app.completions_topic, [rejected(awakeable_id, "out of stock")])
        row = await shop.settled(awakeable_id)
        outcome = await shop.result(row.invocation_id)
    assert isinstance(outcome, Rejection)
    assert outcome.reason == "out of stock"


async def test_a_task_that_kafka_refuses_rejects_its_awakeable_and_the_handler_learns_it(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    app = new_app()
    await create_app_topics(bootstrap, app)
    small = await topic("small", partitions=1, max_message_bytes=2000)
    async with running(bootstrap, app, store) as shop:
        invocation_id = await shop.call("fulfil", topic=small, padding="x" * 5000)
        outcome = await shop.result(invocation_id)
    assert isinstance(outcome, Rejection)
    assert outcome.reason.startswith(f"publish-failed: topic {small!r}: ")


async def test_a_restarted_process_goes_on_at_the_stored_offsets(bootstrap: str, tmp_path: Path) -> None:
    app = new_app()
    await create_app_topics(bootstrap, app, partitions=1)
    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        [first, second] = await shop.pending(count=2)
        await produce(bootstrap, app.completions_topic, [resolved(first)])
        await shop.settled(first)
        before = await shop.positions()

    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        await produce(bootstrap, app.completions_topic, [resolved(second)])
        await shop.settled(second)
        assert await shop.counts(first) == {"accepted": 1}
        after = await shop.positions()
    assert (before, after) == ({0: 1}, {0: 2})


async def test_answers_that_came_while_the_service_was_down_win_over_deadlines_that_passed(
    bootstrap: str, tmp_path: Path
) -> None:
    app = new_app()
    await create_app_topics(bootstrap, app)
    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        answered, unanswered = await shop.pending(count=2, timeout_s=1.5)
    await produce(bootstrap, app.completions_topic, [resolved(answered, "in time")])
    await past_the_deadline(new_store("sqlite", tmp_path), answered)

    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        assert (await shop.settled(answered)).state == "resolved"
        assert (await shop.settled(unanswered)).state == "timed-out"


async def past_the_deadline(store: Store, awakeable_id: str) -> None:
    await store.open()
    row = await store.awakeable(awakeable_id)
    await store.close()
    assert row is not None
    deadline_ms = row.deadline_ms or 0
    clock = store._clock  # type: ignore[attr-defined]
    await eventually(lambda: clock.now_ms() > deadline_ms)


@BOTH_STORES
async def test_case_r2_an_answer_in_time_counts_although_the_service_was_frozen_over_the_deadline(
    bootstrap: str, store: Store
) -> None:
    app = new_app()
    await create_app_topics(bootstrap, app)
    async with running(bootstrap, app, store) as shop:
        await eventually(shop.deadlines_pass)
        [awakeable_id] = await shop.pending(timeout_s=1.5)
        deadline_ms = (await shop.row(awakeable_id)).deadline_ms or 0
        answer = produce(bootstrap, app.completions_topic, [resolved(awakeable_id)], partition=1)
        writing = threading.Thread(target=asyncio.run, args=(answer,))
        writing.start()
        # The loop is not run from here to the end of the block, which is what a freeze is to it.
        writing.join()
        answered_ms = shop.engine.clock.now_ms()
        while shop.engine.clock.now_ms() < deadline_ms + 50:
            pass
        assert answered_ms < deadline_ms
        assert (await shop.settled(awakeable_id)).state == "resolved"


async def test_deadlines_pass_while_the_topic_is_read_and_idle(bootstrap: str, store: Store) -> None:
    app = new_app()
    await create_app_topics(bootstrap, app)
    async with running(bootstrap, app, store) as shop:
        [awakeable_id] = await shop.pending(timeout_s=1)
        row = await shop.settled(awakeable_id)
        assert row.state == "timed-out"
        assert row.settled_ms is not None
        assert row.deadline_ms is not None
        # Not at once, because the horizon trails, but soon: nobody waits out the 15 minutes.
        assert row.settled_ms - row.deadline_ms < 3000
        assert await eventually(shop.deadlines_pass)


@pytest.mark.takes_kafka_down
async def test_a_restart_of_the_broker_loses_and_repeats_nothing(
    real_kafka: RealKafka, bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    app = new_app()
    await create_app_topics(bootstrap, app)
    tasks = await topic("tasks", partitions=1)
    async with running(bootstrap, app, store) as shop:
        [before, after] = await shop.pending(count=2)
        await produce(bootstrap, app.completions_topic, [resolved(before)])
        await shop.settled(before)

        restart = asyncio.create_task(asyncio.to_thread(real_kafka.restart))
        await eventually(lambda: "broker" in shop.problems, timeout=30)
        during = await shop.call("fulfil", topic=tasks)
        await restart

        await eventually(lambda: "broker" not in shop.problems, timeout=30)
        await produce(bootstrap, app.completions_topic, [resolved(after)])
        await shop.settled(after, timeout=30)
        [task] = await read_records(bootstrap, tasks, 1, timeout=30)
        awakeable_id = json.loads(task.value or b"")["awakeable_id"]
        await produce(bootstrap, app.completions_topic, [resolved(awakeable_id, "late but fine")])
        await shop.result(during, timeout=30)

        assert await shop.counts(before) == {"accepted": 1}
        assert await shop.counts(after) == {"accepted": 1}
        assert len(await read_records(bootstrap, tasks, 1)) == 1
        assert await store.dead_letters(Page()) == []
