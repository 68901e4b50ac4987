"""The completions topic: epochs, offsets, dead letters (K1, K2)."""

from __future__ import annotations

from msgspec.structs import replace

from awakeables.core.brief import brief_dead_letter
from awakeables.core.commands import NewAwakeable, PartitionFence, Settle, Skip
from awakeables.core.deadletters import SKIPPED, DeadLetter, relay_copy
from awakeables.core.instances import PartitionRead
from awakeables.core.replies import Fenced, Position, SettledAll, Skipped, Unchecked
from awakeables.ports import Page
from contract.driver import DLQ, TOPIC, Driver, beating, rejected, resolved, unreadable


def fence(*, first: int, next_: int, epoch: int = 1, partition: int = 0, owner: str = "me") -> PartitionFence:
    return PartitionFence(topic=TOPIC, partition=partition, epoch=epoch, first=first, next=next_, owner=owner)


async def test_a_partition_that_was_never_read_begins_at_zero(driver: Driver) -> None:
    assert await driver.store.positions(TOPIC) == []
    assert await driver.take(2, 0) == [1, 1]
    assert await driver.store.positions(TOPIC) == [
        Position(partition=p, next=0, epoch=1, owner="me") for p in (0, 2)
    ]
    assert await driver.store.positions("other") == []


async def test_taking_a_partition_counts_its_epoch_up(driver: Driver) -> None:
    await driver.take(0, 1)
    assert await driver.take(1, owner="you") == [2]
    assert await driver.store.positions(TOPIC) == [
        Position(partition=0, next=0, epoch=1, owner="me"),
        Position(partition=1, next=0, epoch=2, owner="you"),
    ]


async def test_offsets_and_settlements_go_together(driver: Driver) -> None:
    await driver.take(0)
    _, awakeable_id = await driver.waiting()
    order = Settle(completions=(resolved(awakeable_id),), fence=fence(first=0, next_=5))
    await driver.do(SettledAll, order)
    assert await driver.store.positions(TOPIC) == [Position(partition=0, next=5, epoch=1, owner="me")]
    assert await driver.take(0) == [2]
    assert await driver.store.positions(TOPIC) == [Position(partition=0, next=5, epoch=2, owner="me")]


async def test_a_batch_under_a_stale_epoch_is_dropped_alone(driver: Driver) -> None:
    await driver.take(0, 1)
    await driver.take(0, owner="you")
    _, stale = await driver.waiting()
    _, good = await driver.waiting()
    answers = await driver.store.commit(
        [
            Settle(completions=(resolved(stale),), fence=fence(first=0, next_=1)),
            Settle(completions=(resolved(good),), fence=fence(first=0, next_=1, partition=1)),
        ]
    )
    assert [type(answer) for answer in answers] == [Fenced, SettledAll]
    assert (await driver.awakeable(stale)).state == "pending"
    assert (await driver.awakeable(good)).state == "resolved"
    assert [position.next for position in await driver.store.positions(TOPIC)] == [0, 1]


async def test_a_batch_of_a_partition_that_nobody_took_is_dropped(driver: Driver) -> None:
    await driver.do(Fenced, Settle(completions=(), fence=fence(first=0, next_=1)))


async def test_a_batch_that_was_committed_before_is_dropped(driver: Driver) -> None:
    await driver.take(0)
    order = Settle(completions=(), fence=fence(first=0, next_=10))
    await driver.do(SettledAll, order)
    await driver.do(Fenced, order)
    await driver.do(Fenced, Settle(completions=(), fence=fence(first=9, next_=12)))
    assert await driver.store.positions(TOPIC) == [Position(partition=0, next=10, epoch=1, owner="me")]


async def test_offsets_may_have_gaps(driver: Driver) -> None:
    await driver.take(0)
    await driver.do(SettledAll, Settle(completions=(), fence=fence(first=3, next_=4)))
    await driver.do(SettledAll, Settle(completions=(), fence=fence(first=100, next_=101)))
    assert await driver.store.positions(TOPIC) == [Position(partition=0, next=101, epoch=1, owner="me")]


async def test_two_batches_of_one_partition_in_one_commit_follow_each_other(driver: Driver) -> None:
    await driver.take(0)
    batch = [Settle(completions=(), fence=fence(first=n, next_=n + 2)) for n in (0, 2, 3)]
    answers = await driver.store.commit(batch)
    assert [type(answer) for answer in answers] == [SettledAll, SettledAll, Fenced]


async def test_an_unchecked_batch_does_not_move_the_offset(driver: Driver) -> None:
    await driver.take(0)
    _, (awakeable_id,) = await driver.running_with(
        NewAwakeable(id=driver.id("prom"), schema_hash="h"), schemas=[("h", b"{}")]
    )
    await driver.do(Unchecked, Settle(completions=(resolved(awakeable_id),), fence=fence(first=0, next_=1)))
    assert await driver.store.positions(TOPIC) == [Position(partition=0, next=0, epoch=1, owner="me")]


async def test_case_r5_what_is_read_again_after_a_rewind_has_its_verdicts_and_is_counted_nowhere(
    driver: Driver,
) -> None:
    await driver.take(0)
    _, key = await driver.waiting()
    # More verdicts than the book keeps one by one, so that it has forgotten some in between.
    batch = (
        beating(key, b"1", source="t:0:0"),
        unreadable(key, source="t:0:1"),
        resolved(key, source="t:0:2"),
        *(rejected(key, source=f"t:0:{n}") for n in range(3, 40)),
        resolved(key, source="t:0:40"),
    )
    order = Settle(
        completions=batch,
        offsets=tuple(range(41)),
        fence=fence(first=0, next_=41),
        verdicts_to="verdicts",
        verdict_ids=tuple(driver.id("evt") for _ in batch),
    )
    first = await driver.do(SettledAll, order)
    before = await driver.awakeable(key)
    assert before.verdicts.counts == {"invalid": 1, "accepted": 1, "conflict": 37, "duplicate": 1}
    published = await driver.effects("unsent", 100)
    assert await _skip(driver, before=41, to=0)

    again = await driver.do(SettledAll, replace(order, fence=fence(first=0, next_=41, epoch=2)))
    kinds = [[verdict and verdict.kind for verdict in answer.verdicts] for answer in (first, again)]
    assert kinds[1][1:3] == kinds[0][1:3] == ["invalid", "accepted"]
    assert again.again == frozenset(range(41))
    assert await driver.awakeable(key) == before
    assert len(await driver.effects("unsent", 100)) == len(published) + 1  # of the skip itself
    # What comes behind is news.
    more = Settle(
        completions=(rejected(key, source="t:0:41"),), offsets=(41,), fence=fence(first=41, next_=42, epoch=2)
    )
    assert (await driver.do(SettledAll, more)).again == frozenset()
    assert (await driver.awakeable(key)).verdicts.counts["conflict"] == 38


async def test_case_r5_what_waits_is_settled_by_what_is_read_again(driver: Driver) -> None:
    await driver.take(0)
    _, key = await driver.waiting()
    await driver.do(SettledAll, Settle(completions=(), fence=fence(first=0, next_=9)))
    assert await _skip(driver, before=9, to=0)
    order = Settle(completions=(resolved(key),), offsets=(3,), fence=fence(first=3, next_=4, epoch=2))
    answer = await driver.do(SettledAll, order)
    assert (answer.again, len(answer.wakes)) == (frozenset(), 1)
    assert (await driver.awakeable(key)).verdicts.counts == {"accepted": 1}


async def test_case_r5_nothing_of_a_recreated_topic_counts_as_read(driver: Driver) -> None:
    await driver.take(0)
    _, key = await driver.waiting()
    await driver.settle(resolved(key, source="http:1"))
    await driver.do(SettledAll, Settle(completions=(), fence=fence(first=0, next_=9)))
    assert await _skip(driver, before=9, to=0, recreated=True)
    order = Settle(completions=(rejected(key),), offsets=(3,), fence=fence(first=3, next_=4, epoch=2))
    assert (await driver.do(SettledAll, order)).again == frozenset()
    assert (await driver.awakeable(key)).verdicts.counts == {"accepted": 1, "conflict": 1}


async def test_fault_11_a_partition_keeps_the_id_of_the_topic_that_was_read_until_an_operator_moves_it(
    driver: Driver,
) -> None:
    await driver.take(0, topic_id="first")
    await driver.do(SettledAll, Settle(completions=(), fence=fence(first=0, next_=9)))
    for topic_id in ("second", None):
        await driver.take(0, topic_id=topic_id)
        assert await _topic_ids(driver) == ["first"]
    assert await _skip(driver, before=9, to=3)
    assert await _topic_ids(driver) == ["first"]
    assert await _skip(driver, before=3, to=3, recreated=True)
    assert await _topic_ids(driver) == [None]
    await driver.take(0, topic_id="second")
    assert await _topic_ids(driver) == ["second"]


async def test_fault_11_a_partition_of_an_older_release_or_without_records_takes_the_id_of_the_topic(
    driver: Driver,
) -> None:
    await driver.take(0)
    await driver.do(SettledAll, Settle(completions=(), fence=fence(first=0, next_=9)))
    await driver.take(0, topic_id="first")
    await driver.take(1, topic_id="first")
    assert await _topic_ids(driver) == ["first", "first"]
    await driver.take(1, topic_id="second")
    assert await _topic_ids(driver) == ["first", "second"]


async def test_fault_11_what_was_moved_back_to_the_beginning_was_not_read_of_another_topic(
    driver: Driver,
) -> None:
    await driver.take(0, topic_id="first")
    await driver.do(SettledAll, Settle(completions=(), fence=fence(first=0, next_=9)))
    assert await _skip(driver, before=9, to=0)
    assert [position.again_before for position in await driver.store.positions(TOPIC)] == [9]
    await driver.take(0, topic_id="first")
    assert [position.again_before for position in await driver.store.positions(TOPIC)] == [9]
    await driver.take(0, topic_id="second")
    assert [position.again_before for position in await driver.store.positions(TOPIC)] == [0]


async def _topic_ids(driver: Driver) -> list[str | None]:
    return [position.topic_id for position in await driver.store.positions(TOPIC)]


async def test_case_r8_a_partition_is_read_on_behind_what_was_deleted_unread(driver: Driver) -> None:
    await driver.take(0)
    await driver.do(SettledAll, Settle(completions=(), fence=fence(first=0, next_=7)))
    assert await driver.store.positions(TOPIC) == [Position(partition=0, next=7, epoch=1, owner="me")]


async def _skip(driver: Driver, *, before: int, to: int, recreated: bool = False) -> bool:
    order = Skip(
        topic=TOPIC,
        partition=0,
        before=before,
        next=to,
        dead_letter=replace(driver.a_letter(offset=before), code=SKIPPED),
        relay_to=DLQ,
        recreated=recreated,
    )
    return (await driver.do(Skipped, order)).done


# ── dead letters ────────────────────────────────────────────────────────────────────────────


async def test_what_could_not_be_read_becomes_a_dead_letter_and_its_copy_waits_unclaimed(
    driver: Driver,
) -> None:
    letter = driver.a_letter(offset=4)
    answer = await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
    assert answer.dead_letters == (letter,)
    assert await driver.store.dead_letter(letter.id) == letter
    copy = relay_copy(letter, to=DLQ, now_ms=driver.clock.ms)
    assert (copy.event_id, copy.topic, copy.key, copy.value) == (letter.id, DLQ, letter.key, letter.value)
    assert copy.headers[: len(letter.headers)] == letter.headers
    assert await driver.claim_effects("me") == [copy]
    assert await driver.claim_effects("me") == []


async def test_one_record_becomes_a_dead_letter_once(driver: Driver) -> None:
    letter = driver.a_letter(offset=4)
    again = replace(letter, id=driver.id("dlq"))
    order = Settle(completions=(), dead_letters=(letter, again), relay_to=DLQ)
    assert (await driver.do(SettledAll, order)).dead_letters == (letter,)
    assert (await driver.do(SettledAll, order)).dead_letters == ()
    assert await driver.store.dead_letters(Page()) == [brief_dead_letter(letter)]
    assert await driver.store.dead_letter(letter.id) == letter
    assert len(await driver.effects("unsent", 10)) == 1


async def test_originals_of_unknown_and_invalid_completions_are_kept(driver: Driver) -> None:
    _, pending = await driver.waiting()
    _, good = await driver.waiting()
    unknown, purged = driver.id("prom"), driver.id("prom", at_ms=1)
    completions = (resolved(good), resolved(unknown), unreadable(pending), resolved(purged))
    originals = {place: driver.a_letter(offset=place) for place in range(4)}
    answer = await driver.do(SettledAll, Settle(completions=completions, originals=originals, relay_to=DLQ))
    kinds = [verdict and verdict.kind for verdict in answer.verdicts]
    assert kinds == ["accepted", "unknown", "invalid", "late"]
    kept = await driver.store.dead_letters(Page())
    assert sorted(letter.id for letter in answer.dead_letters) == sorted(letter.id for letter in kept)
    assert kept == [brief_dead_letter(told(originals[2], "invalid", "status is missing")), kept[1]]
    second = await driver.store.dead_letter(kept[1].id)
    assert second is not None
    assert (second.id, second.code, second.value) == (originals[1].id, "unknown", originals[1].value)
    assert [effect.value for effect in await driver.claim_effects()] == [originals[1].value] * 2


async def test_a_bad_completion_without_an_original_makes_no_dead_letter(driver: Driver) -> None:
    answer = await driver.settle(resolved(driver.id("prom")))
    assert answer.dead_letters == ()
    assert await driver.store.dead_letters(Page()) == []


async def test_a_bad_record_does_not_stop_its_partition(driver: Driver) -> None:
    await driver.take(0)
    _, awakeable_id = await driver.waiting()
    order = Settle(
        completions=(resolved(awakeable_id),),
        dead_letters=(driver.a_letter(offset=0),),
        fence=fence(first=0, next_=2),
        relay_to=DLQ,
    )
    await driver.do(SettledAll, order)
    assert await driver.store.positions(TOPIC) == [Position(partition=0, next=2, epoch=1, owner="me")]
    assert (await driver.awakeable(awakeable_id)).state == "resolved"


async def test_dead_letters_are_listed_newest_first_in_pages(driver: Driver) -> None:
    letters = [driver.a_letter(offset=offset) for offset in range(5)]
    await driver.do(SettledAll, Settle(completions=(), dead_letters=tuple(letters), relay_to=DLQ))
    newest = [brief_dead_letter(letter) for letter in reversed(letters)]
    assert await driver.store.dead_letters(Page()) == newest
    assert await driver.store.dead_letters(Page(limit=2)) == newest[:2]
    assert await driver.store.dead_letters(Page(limit=2, before=newest[1].id)) == newest[2:4]
    assert await driver.store.dead_letter(driver.id("dlq")) is None


def told(letter: DeadLetter, code: str, reason: str) -> DeadLetter:
    return replace(letter, code=code, reason=reason)


async def test_an_epoch_that_was_given_out_twice_fences_the_other_owner(driver: Driver) -> None:
    """After a failover that lost a commit, two readers can have the same epoch."""
    await driver.take(0, owner="you")
    await driver.do(Fenced, Settle(completions=(), fence=fence(first=0, next_=3)))
    await driver.do(SettledAll, Settle(completions=(), fence=fence(first=0, next_=3, owner="you")))


async def test_a_topic_is_read_up_to_where_each_of_its_partitions_is(driver: Driver) -> None:
    first, second = await driver.take(0, 1)
    read_up_to, now_ms = driver.store.read_up_to, driver.clock.ms
    assert await read_up_to(TOPIC, 2, [read(0, first, now_ms - 5)]) is None
    both = [read(0, first, now_ms - 3), read(1, second, now_ms - 40)]
    assert await read_up_to(TOPIC, 2, both) == now_ms - 40
    assert await read_up_to(TOPIC, 2, [read(1, second, now_ms - 1)]) == now_ms - 3


async def test_a_topic_is_never_read_less_far_than_it_was(driver: Driver) -> None:
    (epoch,) = await driver.take(0)
    now_ms = driver.clock.ms
    assert await driver.store.read_up_to(TOPIC, 1, [read(0, epoch, now_ms - 5)]) == now_ms - 5
    assert await driver.store.read_up_to(TOPIC, 1, [read(0, epoch, now_ms - 50)]) == now_ms - 5
    assert await driver.store.read_up_to(TOPIC, 1, []) == now_ms - 5


async def test_what_an_instance_notes_late_says_no_more_than_it_knew(driver: Driver) -> None:
    """It was frozen, or its connection was, between its reading of a clock and the store's noting."""
    (epoch,) = await driver.take(0)
    known = read(0, epoch, driver.clock.ms - 5)
    driver.clock.ms += 60_000
    assert await driver.store.read_up_to(TOPIC, 1, [known]) == known.up_to_ms


async def test_nothing_is_read_up_to_a_moment_that_is_still_to_come(driver: Driver) -> None:
    (epoch,) = await driver.take(0)
    ahead = read(0, epoch, driver.clock.ms + 1000)
    assert await driver.store.read_up_to(TOPIC, 1, [ahead]) == driver.clock.ms


async def test_after_the_clock_was_set_back_nothing_is_read_until_it_is_noted_again(driver: Driver) -> None:
    """What was noted before lies in the future, and would let deadlines pass that nobody has read up to."""
    first, second = await driver.take(0, 1)
    driver.clock.ms += 60_000
    now_ms = driver.clock.ms
    both = [read(0, first, now_ms), read(1, second, now_ms)]
    assert await driver.store.read_up_to(TOPIC, 2, both) == now_ms
    driver.clock.ms = now_ms = now_ms - 50_000
    assert await driver.store.read_up_to(TOPIC, 2, []) is None
    assert await driver.store.read_up_to(TOPIC, 2, [read(0, first, now_ms - 3)]) is None
    assert await driver.store.read_up_to(TOPIC, 2, [read(1, second, now_ms - 7)]) == now_ms - 7


async def test_who_has_lost_a_partition_notes_nothing_for_it(driver: Driver) -> None:
    (epoch,) = await driver.take(0)
    await driver.take(0, owner="you")
    assert await driver.store.read_up_to(TOPIC, 1, [read(0, epoch, driver.clock.ms)]) is None


async def test_a_new_partition_counts_as_unread_whoever_knows_of_it(driver: Driver) -> None:
    (epoch,) = await driver.take(0)
    known = read(0, epoch, driver.clock.ms)
    assert await driver.store.read_up_to(TOPIC, 1, [known]) is not None
    assert await driver.store.read_up_to(TOPIC, 2, []) is None
    assert await driver.store.read_up_to(TOPIC, 1, [known]) is None


async def test_a_topic_that_was_made_anew_may_have_fewer_partitions(driver: Driver) -> None:
    first, second = await driver.take(0, 1)
    read_up_to, now_ms = driver.store.read_up_to, driver.clock.ms
    both = [read(0, first, now_ms - 3), read(1, second, now_ms - 40)]
    assert await read_up_to(TOPIC, 2, both, topic_id="old") == now_ms - 40
    assert await read_up_to(TOPIC, 1, [], topic_id="old") == now_ms - 40, "who knows of one only is behind"
    assert await read_up_to(TOPIC, 1, []) == now_ms - 40
    assert await read_up_to(TOPIC, 1, [], topic_id="new") == now_ms - 3
    assert await read_up_to(TOPIC, 3, [], topic_id="new") is None


def read(partition: int, epoch: int, up_to_ms: int) -> PartitionRead:
    return PartitionRead(partition=partition, epoch=epoch, up_to_ms=up_to_ms)
