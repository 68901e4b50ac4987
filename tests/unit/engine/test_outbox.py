"""The relay (K3, hard case 9): in order per stream, until Kafka has it, and then not again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import CapturingLogger

from awakeables.core.commands import Advance, Begin, ClaimEffects, MarkPublished, MarkRefused, NewAwakeable
from awakeables.core.deadletters import OMITTED_HEADER
from awakeables.core.effects import Effect, TaskFacts
from awakeables.core.invocations import Continue
from awakeables.core.outcomes import Rejection
from awakeables.core.replies import Wake
from awakeables.core.rows import effect_row
from awakeables.engine import outbox
from awakeables.engine.committer import Committer
from awakeables.engine.outbox import Relay, RelaySettings
from awakeables.errors import BrokerUnavailable, PublishRefused, StoreUnavailable, TopicMissing
from awakeables.ports import PublishReport
from awakeables.telemetry import events
from awakeables.testing.bench import FakeBroker, FragileStore, until
from awakeables.testing.loop import VirtualClock
from support.ids import new_id
from support.logs import heard

OWNER = "me"


class Rig:
    """A relay between a store and a broker."""

    def __init__(self, settings: RelaySettings) -> None:
        self.clock = VirtualClock(asyncio.get_running_loop())
        self.store = FragileStore(clock=self.clock)
        self.broker = FakeBroker()
        self.committer = Committer(self.store)
        self.wakes: list[Wake] = []
        self.settings = settings
        self.relay = self.another(OWNER)

    def another(self, owner: str) -> Relay:
        return Relay(
            self.committer,
            self.store,
            self.broker,
            owner=lambda: owner,
            clock=self.clock,
            settings=self.settings,
            on_wakes=self.wakes.extend,
        )

    def effect(self, number: int, stream: str = "inv_a", **fields: Any) -> Effect:
        event_id = new_id("evt", at_ms=number, entropy=bytes(10))
        return Effect(event_id=event_id, stream=stream, topic="t", key=None, value=b"%d" % number, **fields)

    async def commit(self, *effects: Effect, owner: str = OWNER, awakeables: Sequence[str] = ()) -> None:
        """Commit effects as an invocation does; nobody hands them off."""
        stream = effects[0].stream
        await self.committer.submit(Begin(id=stream, service="s", handler="h", chunk=b"[]", owner=owner))
        row = self.store.tables.invocations[stream]
        await self.committer.submit(
            Advance(
                invocation_id=stream,
                owner=owner,
                epoch=row.epoch,
                version=row.version,
                number=row.commits + 1,
                build="b",
                next=Continue(),
                awakeables=tuple(NewAwakeable(id=key) for key in awakeables),
                effects=effects,
            )
        )

    def sent(self) -> list[bytes | None]:
        return [effect.value for effect in self.broker.published]

    async def quiet(self) -> None:
        await until(lambda: self.relay.idle and not self.store.tables.effects, "everything is out")


@asynccontextmanager
async def relaying(**settings: Any) -> AsyncIterator[Rig]:
    """A relay that has looked once and found nothing."""
    rig = Rig(RelaySettings(**settings))
    running = [asyncio.ensure_future(rig.committer.run()), asyncio.ensure_future(rig.relay.run())]
    try:
        await until(lambda: rig.relay.idle, "the relay has begun")
        yield rig
        assert not any(task.done() for task in running), "the relay died"
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_what_is_handed_off_goes_out_and_its_row_goes_away() -> None:
    async with relaying() as rig:
        effects = [rig.effect(n) for n in range(3)]
        await rig.commit(*effects)
        rig.relay.hand_off(effects)
        await rig.quiet()
        assert rig.broker.published == effects


async def test_effects_of_one_commit_go_out_with_one_call_and_are_acknowledged_with_one_order() -> None:
    async with relaying() as rig:
        effects = [rig.effect(n, f"inv_{n:02}") for n in range(20)]
        for effect in effects:
            await rig.commit(effect)
        for effect in effects:
            rig.relay.hand_off([effect])
        await rig.quiet()
        assert rig.broker.batches == [20]
        assert [len(sent.event_ids) for sent in rig.store.members(MarkPublished)] == [20]


async def test_what_failed_together_is_tried_again_together() -> None:
    async with relaying() as rig:
        effects = [rig.effect(n, f"inv_{n:02}") for n in range(20)]
        rig.broker.fail = lambda _e: BrokerUnavailable("down") if rig.clock.monotonic() < 3 else None
        for effect in effects:
            await rig.commit(effect)
        rig.relay.hand_off(effects)
        await rig.quiet()
        assert rig.broker.batches == [20] * 5


async def test_a_publisher_that_breaks_off_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with relaying() as rig:
        effects = [rig.effect(n, f"inv_{n:02}") for n in range(4)]
        publish = rig.broker.publish

        async def broken(effects: Sequence[Effect], report: PublishReport) -> None:
            monkeypatch.setattr(rig.broker, "publish", publish)
            await publish(effects[:2], report)
            raise RuntimeError("a defect")

        monkeypatch.setattr(rig.broker, "publish", broken)
        for effect in effects:
            await rig.commit(effect)
        rig.relay.hand_off(effects)
        await rig.quiet()
        assert rig.broker.published == effects


async def test_effects_of_one_stream_wait_for_each_other_and_others_pass() -> None:
    """K3: in order per invocation."""
    async with relaying() as rig:
        slow, fast = [rig.effect(n, "inv_a") for n in (1, 2, 3)], [rig.effect(n, "inv_b") for n in (4, 5)]
        rig.broker.fail = lambda effect: BrokerUnavailable("down") if effect.value == b"1" else None
        for stream in (slow, fast):
            await rig.commit(*stream)
            rig.relay.hand_off(stream)
        await until(lambda: rig.sent() == [b"4", b"5"])
        await asyncio.sleep(30)
        assert rig.sent() == [b"4", b"5"]
        rig.broker.fail = lambda _effect: None
        await rig.quiet()
        assert rig.sent() == [b"4", b"5", b"1", b"2", b"3"]


async def test_an_effect_is_tried_until_the_broker_takes_it_with_pauses_of_at_most_five_seconds() -> None:
    async with relaying() as rig:
        effect = rig.effect(1)
        failures = iter(range(10))
        rig.broker.fail = lambda _e: BrokerUnavailable("down") if next(failures, None) is not None else None
        await rig.commit(effect)
        began = rig.clock.monotonic()
        rig.relay.hand_off([effect])
        await rig.quiet()
        assert rig.sent() == [b"1"]
        assert {e.event_id for e in rig.broker.tries} == {effect.event_id}, "stable over resends"
        assert len(rig.broker.tries) == 11
        assert rig.clock.monotonic() - began == pytest.approx(0.2 * 31 + 5 * 5, abs=0.5)


async def test_what_a_lost_hand_off_left_behind_is_found() -> None:
    """O3."""
    async with relaying() as rig:
        effects = [rig.effect(n) for n in range(3)]
        await rig.commit(*effects)
        await rig.quiet()
        assert rig.broker.published == effects


async def test_what_a_dead_owner_left_behind_is_claimed_as_whole_streams_and_in_order() -> None:
    async with relaying() as rig:
        await rig.commit(*[rig.effect(n, "inv_a") for n in range(3)], owner="dead")
        await rig.commit(*[rig.effect(n, "inv_b") for n in range(3, 5)], owner="dead")
        rig.relay.poke()
        await rig.quiet()
        assert [v for v in rig.sent() if v in (b"0", b"1", b"2")] == [b"0", b"1", b"2"]
        assert [v for v in rig.sent() if v in (b"3", b"4")] == [b"3", b"4"]
        assert len(rig.sent()) == 5


async def test_a_relay_that_begins_publishes_what_its_process_had_not() -> None:
    rig = Rig(RelaySettings())
    committing = asyncio.ensure_future(rig.committer.run())
    effects = [rig.effect(n) for n in range(3)]
    await rig.commit(*effects, owner="the last process")
    running = asyncio.ensure_future(rig.relay.run())
    await rig.quiet()
    assert rig.broker.published == effects
    for task in (running, committing):
        task.cancel()
    await asyncio.gather(running, committing, return_exceptions=True)


async def test_an_acknowledged_effect_is_not_published_again_while_its_row_is_not_yet_gone() -> None:
    """K3: sweeps see the row until MarkPublished is committed, which rides lazily, or waits for the store."""
    async with relaying(sweep_interval=timedelta(milliseconds=10)) as rig:
        effect = rig.effect(1)
        await rig.commit(effect)
        rig.store.refuses = lambda member: False
        rig.relay.hand_off([effect])
        await until(lambda: rig.broker.published)
        rig.store.gate.clear()
        for _ in range(30):
            rig.relay.poke()
            await asyncio.sleep(0.05)
        rig.store.gate.set()
        await rig.quiet()
        await asyncio.sleep(5)
        assert rig.broker.published == [effect]


async def test_no_effect_is_published_twice_however_often_is_looked() -> None:
    async with relaying(sweep_interval=timedelta(milliseconds=1)) as rig:
        rig.broker.gate.clear()
        effects = [rig.effect(n, f"inv_{n % 7}") for n in range(40)]
        for effect in effects:
            await rig.commit(effect)
        await asyncio.sleep(1)
        rig.broker.gate.set()
        await rig.quiet()
        await asyncio.sleep(5)
        assert sorted(rig.broker.published, key=lambda e: e.event_id) == effects
        assert len(rig.broker.tries) == 40


async def test_more_than_there_is_room_for_goes_out_all_the_same_and_in_order() -> None:
    async with relaying(max_waiting=3) as rig:
        rig.broker.gate.clear()
        effects = [rig.effect(n) for n in range(20)]
        for effect in effects:
            await rig.commit(effect)
            rig.relay.hand_off([effect])
        assert len(rig.relay._known) <= 3
        rig.broker.gate.set()
        await rig.quiet()
        assert rig.broker.published == effects


async def test_large_ones_are_held_in_memory_a_few_at_a_time_and_go_out_in_order() -> None:
    async with relaying(max_waiting_bytes=3000) as rig:
        rig.broker.gate.clear()
        effects = [replace(rig.effect(n), value=bytes(5000 if n == 7 else 1000)) for n in range(20)]
        for effect in effects:
            await rig.commit(effect)
            rig.relay.hand_off([effect])
        assert len(rig.relay._known) == 3
        rig.broker.gate.set()
        await rig.quiet()
        assert rig.broker.published == effects
        assert rig.relay._held_bytes == 0


def task_of(rig: Rig, number: int, awakeable_id: str) -> Effect:
    facts = TaskFacts(awakeable_id=awakeable_id, reply_to="shop.completions")
    return rig.effect(number, task=facts, kind="task")


async def test_a_record_that_kafka_refuses_rejects_its_awakeable_and_the_next_one_passes() -> None:
    """Hard case 9."""
    async with relaying() as rig:
        awakeable_id = new_id("prom", at_ms=1, entropy=bytes(10))
        effects = [task_of(rig, 1, awakeable_id), rig.effect(2)]
        rig.broker.fail = lambda e: PublishRefused("2 MB are too many") if e.value == b"1" else None
        await rig.commit(*effects, awakeables=[awakeable_id])
        rig.relay.hand_off(effects)
        await until(lambda: rig.sent() == [b"2"])
        row = rig.store.tables.awakeables[awakeable_id]
        assert row.outcome == Rejection(reason="publish-failed: topic 't': 2 MB are too many", code=502)
        assert [(w.invocation_id, w.awakeable_id) for w in rig.wakes] == [("inv_a", awakeable_id)]
        assert list(rig.store.tables.failed) == [effects[0].event_id]
        await asyncio.sleep(60)
        assert rig.store.tables.in_state("unsent") == []
        assert len(rig.broker.tries) == 2, "failed effects are left alone"


async def test_case_w8_a_verdict_that_kafka_refuses_is_logged_with_its_awakeable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A2: it can be looked up there."""
    log = CapturingLogger()
    monkeypatch.setattr(outbox, "log", log)
    async with relaying() as rig:
        awakeable_id = new_id("prom", at_ms=1, entropy=bytes(10))
        rig.broker.fail = lambda _: PublishRefused("too large")
        verdict = replace(rig.effect(1), stream=awakeable_id, kind="verdict")
        await rig.commit(verdict)
        rig.relay.hand_off([verdict])
        await rig.quiet()
    [call] = log.calls
    assert (call.method_name, call.kwargs["awakeable_id"]) == ("error", awakeable_id)
    assert call.kwargs["reason"] == "too large"


async def test_a_topic_that_is_missing_for_too_long_is_given_up() -> None:
    """Hard case 9: `publish_timeout`."""
    async with relaying(publish_timeout=timedelta(seconds=30)) as rig:
        awakeable_id = new_id("prom", at_ms=1, entropy=bytes(10))
        effects = [task_of(rig, 1, awakeable_id), rig.effect(2)]
        rig.broker.fail = lambda e: TopicMissing("no topic t") if e.value == b"1" else None
        await rig.commit(*effects, awakeables=[awakeable_id])
        rig.relay.hand_off(effects)
        await asyncio.sleep(25)
        assert rig.store.tables.awakeables[awakeable_id].state == "pending"
        await until(lambda: rig.sent() == [b"2"])
        assert 30 <= rig.clock.monotonic() < 40
        assert rig.store.tables.awakeables[awakeable_id].state == "rejected"


async def test_records_to_a_topic_that_is_missing_share_one_patience_and_let_others_pass() -> None:
    """With a patience of their own each, they would hold the places of all others for ever."""
    async with relaying(publish_timeout=timedelta(seconds=30), max_waiting=4) as rig:
        rig.broker.fail = lambda e: TopicMissing("no topic gone") if e.topic == "gone" else None
        took_s = []
        for number in range(10, 200, 10):
            for n in range(5):
                lost = rig.effect(number + n, stream=f"inv_{number + n}")
                await rig.commit(replace(lost, topic="gone"))
            began_s = rig.clock.monotonic()
            good = rig.effect(number + 9, stream=f"inv_{number + 9}")
            await rig.commit(good)
            await until(lambda good=good: good in rig.broker.published)  # type: ignore[misc]
            took_s.append(rig.clock.monotonic() - began_s)
        assert 25 < took_s[0] < 50
        assert max(took_s[1:]) < 15


async def test_a_topic_that_was_missing_long_ago_is_waited_for_again() -> None:
    async with relaying(publish_timeout=timedelta(seconds=30)) as rig:
        rig.broker.fail = lambda _e: TopicMissing("no topic t")
        await rig.commit(rig.effect(1))
        await until(lambda: rig.store.tables.failed)
        await asyncio.sleep(60)
        await rig.commit(rig.effect(2))
        await asyncio.sleep(25)
        rig.broker.fail = lambda _e: None
        await until(lambda: rig.sent() == [b"2"])


async def test_a_topic_that_comes_in_time_gets_its_record() -> None:
    async with relaying(publish_timeout=timedelta(seconds=30)) as rig:
        effect = rig.effect(1)
        rig.broker.fail = lambda _e: TopicMissing("no topic t") if rig.clock.monotonic() < 20 else None
        await rig.commit(effect)
        rig.relay.hand_off([effect])
        await rig.quiet()
        assert rig.sent() == [b"1"]


async def test_a_broker_that_is_away_for_hours_is_waited_for() -> None:
    async with relaying() as rig:
        effect = rig.effect(1)
        rig.broker.fail = lambda _e: BrokerUnavailable("down") if rig.clock.monotonic() < 10_000 else None
        await rig.commit(effect)
        rig.relay.hand_off([effect])
        await asyncio.sleep(10_010)
        assert rig.sent() == [b"1"]


def a_dead_letter(value: bytes | None) -> Effect:
    key = new_id("dlq", at_ms=1, entropy=bytes(10))
    return Effect(
        event_id=key,
        stream=key,
        topic="dlq",
        key=b"k",
        value=value,
        headers=(("h", b"1"),),
        kind="dead-letter",
    )


async def test_a_dead_letter_that_is_too_large_goes_without_its_value() -> None:
    """K2."""
    async with relaying() as rig:
        letter = a_dead_letter(b"x" * 100)
        rig.broker.fail = lambda e: PublishRefused("too large") if e.value is not None else None
        rig.store.tables.effects[letter.event_id] = effect_row(letter, "", 0)
        rig.relay.poke()
        await rig.quiet()
        (copy,) = rig.broker.published
        assert (copy.event_id, copy.key, copy.value) == (letter.event_id, b"k", None)
        assert copy.headers == (("h", b"1"), (OMITTED_HEADER, b"too large"))


async def test_a_dead_letter_that_is_refused_without_its_value_too_is_kept_as_failed() -> None:
    async with relaying() as rig:
        letter = a_dead_letter(b"x")
        rig.broker.fail = lambda _e: PublishRefused("forbidden")
        rig.store.tables.effects[letter.event_id] = effect_row(letter, "", 0)
        rig.relay.poke()
        await until(lambda: rig.store.tables.failed)
        assert list(rig.store.tables.failed) == [letter.event_id]
        assert len(rig.broker.tries) == 2


async def test_while_the_store_is_down_what_was_published_stays_published_once() -> None:
    async with relaying() as rig:
        effect = rig.effect(1)
        await rig.commit(effect)
        rig.store.lose_before = 8
        rig.relay.hand_off([effect])
        await rig.quiet()
        assert rig.broker.published == [effect]
        assert rig.store.members(MarkPublished)[-1].event_ids == (effect.event_id,)


async def test_a_lost_acknowledgement_of_a_refusal_rejects_the_awakeable_once() -> None:
    async with relaying() as rig:
        awakeable_id = new_id("prom", at_ms=1, entropy=bytes(10))
        effect = task_of(rig, 1, awakeable_id)
        rig.broker.fail = lambda _e: PublishRefused("forbidden")
        await rig.commit(effect, awakeables=[awakeable_id])
        rig.store.lose_after = 1
        rig.relay.hand_off([effect])
        await until(lambda: len(rig.store.members(MarkRefused)) >= 1 and not rig.relay._known)
        assert rig.store.tables.awakeables[awakeable_id].verdicts.counts == {"accepted": 1}
        assert rig.store.tables.invocations["inv_a"].wake == 1


async def test_draining_waits_for_what_was_handed_off_but_not_forever() -> None:
    async with relaying() as rig:
        effect = rig.effect(1)
        await rig.commit(effect)
        rig.broker.gate.clear()
        rig.relay.hand_off([effect])
        assert not await rig.relay.drained(1.0)
        rig.broker.gate.set()
        assert await rig.relay.drained(1.0)
        assert rig.sent() == [b"1"]


async def test_case_u2_draining_does_not_wait_for_a_topic_that_is_missing() -> None:
    async with relaying() as rig:
        stuck, behind = rig.effect(1, "inv_a"), rig.effect(2, "inv_a")
        fine = replace(rig.effect(3, "inv_b"), topic="there")
        rig.broker.fail = lambda e: TopicMissing("there is no topic 't'") if e.topic == "t" else None
        await rig.commit(stuck, behind, fine)
        rig.relay.hand_off([stuck, behind])
        await until(lambda: rig.broker.tries)
        assert rig.relay.holdup(stuck) == "there is no topic 't'"
        assert rig.relay.holdup(behind) == f"it waits behind {stuck.event_id}: there is no topic 't'"
        rig.broker.gate.clear()
        rig.relay.hand_off([fine])
        assert not await rig.relay.drained(1.0)
        rig.broker.gate.set()
        began_s = rig.clock.monotonic()
        assert await rig.relay.drained(30.0)
        assert rig.clock.monotonic() - began_s < 1
        assert rig.sent() == [b"3"]


async def test_case_u2_what_a_topic_s_records_wait_for_is_forgotten_once_one_is_out_or_refused() -> None:
    async with relaying() as rig:
        effect = rig.effect(1)
        errors = [BrokerUnavailable("away"), PublishRefused("too large")]
        rig.broker.fail = lambda _e: errors.pop(0) if errors else None
        await rig.commit(effect)
        rig.relay.hand_off([effect])
        await until(lambda: len(errors) == 1)
        assert rig.relay.holdup(effect) == "away"
        await until(lambda: rig.store.tables.failed)
        assert rig.relay.holdup(effect) is None


async def test_an_unexpected_error_stops_no_other_stream() -> None:
    async with relaying() as rig:
        odd, fine = rig.effect(1, "inv_a"), rig.effect(2, "inv_b")
        rig.broker.fail = lambda e: UnicodeError("a header that can't be sent") if e.value == b"1" else None
        for effect in (odd, fine):
            await rig.commit(effect)
            rig.relay.hand_off([effect])
        await until(lambda: rig.sent() == [b"2"])
        await asyncio.sleep(5)
        assert rig.store.tables.failed == {odd.event_id: "UnicodeError: a header that can't be sent"}


async def test_two_owners_don_t_take_each_other_s_effects_by_handing_off() -> None:
    async with relaying() as rig:
        await rig.commit(rig.effect(1), owner=OWNER)
        claimed = await rig.committer.submit(ClaimEffects(owner=OWNER, limit=10))
        assert claimed.effect_ids == ()  # type: ignore[union-attr]
        await rig.quiet()
        assert len(rig.broker.published) == 1


async def test_case_w9_r9_a_topic_that_is_missing_is_logged_a_few_times_and_not_per_record() -> None:
    async with relaying() as rig:
        rig.broker.fail = lambda _: TopicMissing("there is no topic 'verdicts'")
        verdicts = [rig.effect(number, stream=f"prom_1{number}", kind="verdict") for number in range(300)]
        with heard() as logs:
            rig.relay.hand_off(verdicts)
            await asyncio.sleep(720)
    counted = Counter(line["event"] for line in logs)
    assert counted == {events.EFFECT_FAILED: 3, events.EFFECT_REFUSED: 1}
    assert len(rig.broker.tries) > 300


async def test_effects_that_take_too_long_to_be_read_together_are_read_a_few_at_a_time() -> None:
    async with relaying() as rig:
        read = rig.store.effects

        async def slow(owner: str, limit: int) -> list[Effect]:
            if limit > 50:
                raise StoreUnavailable("canceling statement due to statement timeout")
            return await read(owner, limit)

        rig.store.effects = slow  # type: ignore[method-assign]
        for number in range(30):
            await rig.commit(rig.effect(number, f"inv_{number:04}"))
        await rig.quiet()
        assert len(rig.broker.published) == 30
