"""The examples, run with the testing kit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from examples import agent, approval, enrichment, fanout, fulfilment, payment, shop, signup, training, trip

from awakeables import Context, KafkaRecord, Reject, Service, State, Task, TerminalError
from awakeables.errors import InvalidInput
from awakeables.testing import Answer, Harness, PendingAwakeable, Run, run


@pytest.mark.parametrize("suspend", [True, False], ids=["suspending at every await", "live"])
class TestShop:
    def test_an_order_is_packed(self, suspend: bool) -> None:
        told = run(shop.fulfil, shop.Order(id="o-1"), workers=[shop.packer], suspend=suspend)
        assert told.value == {"order": "o-1", "parcel": {"tracking": "parcel-of-o-1"}}
        assert [record.topic for record in told.published] == ["pack-requests"]

    def test_what_is_out_of_stock_is_refunded_and_refused(self, suspend: bool) -> None:
        told = run(shop.fulfil, shop.Order(id="o-1", item="unicorn"), workers=[shop.packer], suspend=suspend)
        with pytest.raises(TerminalError, match="out of stock") as caught:
            _ = told.value
        assert caught.value.code == 409
        assert "run 'refund'" in told.journal

    def test_what_nobody_packs_is_refunded_after_four_hours(self, suspend: bool) -> None:
        told = run(shop.fulfil, shop.Order(id="o-1"), suspend=suspend)
        with pytest.raises(TerminalError, match="timed out"):
            _ = told.value
        assert timedelta(hours=4) <= told.duration < timedelta(hours=4, minutes=1)


def test_a_survey_is_content_with_eighty_of_a_hundred() -> None:
    documents = [f"document {n}" for n in range(100)]

    def score(task: Task[str]) -> Any:
        number = int(task.payload.split()[1])
        if number % 10 == 0:
            raise Reject("unreadable")
        return Answer(number / 10, after=timedelta(seconds=number))

    told = run(fanout.survey, documents, answers={"score": score})
    assert (told.value["complete"], len(told.value["scores"]), told.value["missing"]) == (True, 80, 20)
    assert told.duration < timedelta(seconds=100)  # the last ten are not waited for


def test_a_survey_keeps_what_came_in_time() -> None:
    slow = run(fanout.survey, ["a", "b", "c"], answers={"score": lambda task: Answer(1.0, after=late(task))})
    assert slow.value == {"scores": [1.0], "missing": 2, "complete": False}
    failed = run(fanout.survey, ["a", "b"], answers={"score": Reject("no")})
    assert failed.value == {"scores": [], "missing": 2, "complete": False}
    assert run(fanout.survey, ["abc"], workers=[fanout.scorer]).value["scores"] == [0.3]


def late(task: Task[str]) -> timedelta:
    return timedelta(minutes=1) if task.payload == "a" else timedelta(hours=1)


EXPENSE = approval.Expense(id="e-1", cents=900, manager="ann", director="bob")


@pytest.mark.parametrize(
    ("days", "by", "mails"), [(0.5, "ann", 1), (2.5, "ann", 3), (4, "ann", 5), (9, "bob", 5)]
)
def test_an_expense_is_approved_by_whoever_answers_first(
    days: float, by: str, mails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailed: list[str] = []
    asked: list[str] = []
    monkeypatch.setattr(approval, "send_mail", lambda to, _expense, _id: mailed.append(to))

    def answer(wait: PendingAwakeable) -> None:
        if wait.id not in asked:
            asked.append(wait.id)
        if by == ["ann", "bob"][asked.index(wait.id)]:
            wait.resolve({"verdict": "approve", "by": by}, after=timedelta(days=days - 3 * (by == "bob")))

    told = run(approval.approve, EXPENSE, on_wait=answer)
    assert told.value == "paid e-1"
    assert mailed == ["ann", "ann", "ann", "ann", "bob"][:mails]


def test_an_expense_that_is_refused_fails_with_who_did() -> None:
    def refuse(wait: PendingAwakeable) -> None:
        wait.resolve({"verdict": "refuse", "by": "ann"})

    with pytest.raises(TerminalError, match="ann has refused"):
        _ = run(approval.approve, EXPENSE, on_wait=refuse).value


def test_nobody_answers_and_the_expense_is_not_approved() -> None:
    with pytest.raises(TerminalError, match="timed out"):
        _ = run(approval.approve, EXPENSE).value


scenes = Service("scenes")


@scenes.handler()
async def sell(ctx: Context, orders: list[fulfilment.Order]) -> dict[str, Any]:
    """Three books are in stock, and these orders come in at the same time."""
    await ctx.call(fulfilment.restock, 3, key="book")
    calls = [ctx.call(fulfilment.fulfil, order) for order in orders]
    await ctx.sleep(timedelta(minutes=1))
    before = await ctx.call(fulfilment.level, key="book")
    ends = await ctx.gather(*calls, return_exceptions=True)
    await ctx.sleep(timedelta(minutes=1))
    after = await ctx.call(fulfilment.level, key="book")
    texts = [end.reason if isinstance(end, TerminalError) else end.tracking for end in ends]
    return {"ends": texts, "before": before.model_dump(), "after": after.model_dump()}


def test_what_an_order_has_reserved_of_a_product_is_given_back() -> None:
    before: dict[State[Any], Any] = {fulfilment.FREE: 1, fulfilment.RESERVED["o-1"]: 2}
    assert run(fulfilment.level, key="book", state=before).value == {"free": 1, "orders": ["o-1"]}
    assert run(fulfilment.release, "o-1", key="book", state=before).state == {"free": 3}
    assert run(fulfilment.release, "o-2", key="book", state=before).state == {"free": 1, "reserved/o-1": 2}
    assert run(fulfilment.ship, "o-1", key="book", state=before).state == {"free": 1}


def ordered(name: str, *skus: str) -> fulfilment.Order:
    return fulfilment.Order(id=name, lines=[fulfilment.Line(sku=sku, units=2) for sku in skus])


@pytest.mark.parametrize("suspend", [True, False], ids=["suspending at every await", "live"])
class TestFulfilment:
    def test_of_two_orders_for_the_last_units_one_gets_them(self, suspend: bool) -> None:
        orders = [ordered("o-1", "book"), ordered("o-2", "book")]
        result = run(sell, orders, workers=[fulfilment.warehouse], suspend=suspend)
        refused, packed = sorted(result.value["ends"])
        assert refused == "book is out of stock"
        assert packed in ("parcel-of-o-1", "parcel-of-o-2")
        assert result.value["after"] == {"free": 1, "orders": []}

    def test_what_is_not_packed_in_time_is_released(self, suspend: bool) -> None:
        result = run(sell, [ordered("o-1", "book")], suspend=suspend)
        [reason] = result.value["ends"]
        assert "timed out" in reason
        assert result.value["before"] == {"free": 1, "orders": ["o-1"]}
        assert result.value["after"] == {"free": 3, "orders": []}
        assert result.duration > fulfilment.PATIENCE

    def test_what_can_not_be_packed_is_released(self, suspend: bool) -> None:
        answers = {"pack": Reject("the robot is broken")}
        result = run(sell, [ordered("o-1", "book")], answers=answers, suspend=suspend)
        assert result.value["ends"] == ["the robot is broken"]
        assert result.value["after"] == {"free": 3, "orders": []}

    def test_a_line_that_is_out_of_stock_releases_the_others(self, suspend: bool) -> None:
        result = run(sell, [ordered("o-1", "book", "pen")], suspend=suspend)
        assert result.value["ends"] == ["pen is out of stock"]
        assert result.value["after"] == {"free": 3, "orders": []}


@pytest.fixture
def bookings() -> Iterator[dict[str, set[str]]]:
    yield trip.bookings
    for booked in trip.bookings.values():
        booked.clear()


@pytest.mark.parametrize("suspend", [True, False], ids=["suspending at every await", "live"])
class TestTrip:
    def book(self, suspend: bool, **how: Any) -> Run:
        given = trip.Trip(id="t-1", flight=how.get("flight", "LH 1"), hotel=how.get("hotel", "Krone"))
        return run(trip.book, given, workers=how.get("workers", [trip.hotel]), suspend=suspend)

    def test_a_trip_is_booked(self, suspend: bool, bookings: dict[str, set[str]]) -> None:
        assert self.book(suspend).value == {"trip": "t-1", "room": "room-of-t-1"}
        assert bookings == {"seats": {"t-1"}, "payments": {"t-1"}}

    @pytest.mark.parametrize(
        ("how", "code"),
        [({"flight": "full"}, 409), ({"hotel": "full"}, 409), ({"workers": []}, 408)],
        ids=["no seat", "no room", "no answer"],
    )
    def test_what_fails_is_undone(
        self, suspend: bool, how: dict[str, Any], code: int, bookings: dict[str, set[str]]
    ) -> None:
        with pytest.raises(TerminalError) as caught:
            _ = self.book(suspend, **how).value
        assert (caught.value.code, caught.value.details) == (code, None)
        assert bookings == {"seats": set(), "payments": set()}


@pytest.mark.parametrize("suspend", [True, False], ids=["suspending at every await", "live"])
class TestEnrichment:
    def enrich(self, suspend: bool, value: bytes, **how: Any) -> Run:
        record = KafkaRecord(topic="orders", key=b"ann", value=value, partition=3, offset=7)
        return run(enrichment.enrich, record=record, suspend=suspend, **how)

    def test_an_order_goes_on_with_its_risk(self, suspend: bool) -> None:
        result = self.enrich(suspend, b'{"id": "o-1", "cents": 50000}', workers=[enrichment.assessor])
        task, enriched = result.published
        assert (task.topic, enriched.topic) == ("assessments", "assessed-orders")
        assert enriched.payload == {"id": "o-1", "customer": "ann", "cents": 50_000, "number": 1, "risk": 0.5}
        assert enriched.headers["source"] == "orders-3@7"
        assert result.state == {"seen": 1}

    def test_an_order_that_nobody_assesses_goes_on_without_a_risk(self, suspend: bool) -> None:
        result = self.enrich(suspend, b'{"id": "o-1", "cents": 50000}')
        assert result.published[-1].payload["risk"] is None
        assert result.duration >= enrichment.PATIENCE

    def test_an_order_that_is_rejected_fails(self, suspend: bool) -> None:
        result = self.enrich(suspend, b'{"id": "o-1", "cents": 2000000}', workers=[enrichment.assessor])
        with pytest.raises(TerminalError, match="a person must look at this order"):
            _ = result.value
        assert enrichment.ASSESSED not in [record.topic for record in result.published]

    def test_what_is_not_an_order_begins_nothing(self, suspend: bool) -> None:
        with pytest.raises(InvalidInput, match="does not fit"):
            self.enrich(suspend, b'{"id": "o-1"}')


class Mailbox:
    """What was sent, and the secret that was in it."""

    TOKEN = "s-e-c-r-e-t"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.subjects: list[str] = []
        monkeypatch.setattr(signup, "new_token", lambda: self.TOKEN)
        monkeypatch.setattr(signup, "send_mail", self.deliver)

    def deliver(self, _to: str, subject: str, _name: str, token: str) -> None:
        assert token == self.TOKEN
        self.subjects.append(subject)


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Mailbox:
    return Mailbox(monkeypatch)


@scenes.handler()
async def sign_up(ctx: Context, acts: list[tuple[float, str, str]]) -> list[Any]:
    """Ann signs up; then the other handlers are called, each a number of days after the one before."""
    run_, found = ctx.send(signup.sign_up, "ann@example.com", key="ann"), list[Any]()
    page = ctx.send(signup.confirmation, key="ann")
    for days, handler, token in acts:
        await ctx.sleep(timedelta(days=days))
        called = getattr(signup, handler)
        call = ctx.call(called, token, key="ann") if token else ctx.call(called, key="ann")
        [end] = await ctx.gather(call, return_exceptions=True)
        found.append(end.code if isinstance(end, TerminalError) else end)
    for call in (run_, page):
        [end] = await ctx.gather(call, return_exceptions=True)
        found.append(end.reason if isinstance(end, TerminalError) else end)
    shown = await ctx.call(signup.status, key="ann")
    return [*found, shown.model_dump()]


@pytest.mark.parametrize("suspend", [True, False], ids=["suspending at every await", "live"])
class TestSignup:
    ACCOUNT = signup.Account(name="ann", email="ann@example.com").model_dump()

    def play(self, suspend: bool, *acts: tuple[float, str, str]) -> Any:
        return run(sign_up, list(acts), suspend=suspend).value

    def test_a_click_confirms_an_address_and_a_second_one_changes_nothing(
        self, suspend: bool, mailbox: Mailbox
    ) -> None:
        token = mailbox.TOKEN
        acts = [(0.1, "clicked", "guessed"), (0.4, "clicked", token), (0.1, "clicked", token)]
        found = self.play(suspend, *acts, (0, "disown", token))
        assert found[:4] == [403, "welcome, ann", "welcome, ann", "conflict"]
        assert found[4:] == [self.ACCOUNT, True, {"step": "welcome sent", "confirmation": "confirmed"}]
        assert mailbox.subjects == ["welcome"]

    def test_who_does_not_click_is_reminded_once(self, suspend: bool, mailbox: Mailbox) -> None:
        found = self.play(suspend, (1.5, "status", ""), (0, "clicked", mailbox.TOKEN))
        assert found[0] == {"step": "reminder sent", "confirmation": "open"}
        assert found[1:4] == ["welcome, ann", self.ACCOUNT, True]
        assert mailbox.subjects == ["welcome", "reminder"]

    def test_a_click_after_two_days_is_too_late(self, suspend: bool, mailbox: Mailbox) -> None:
        found = self.play(suspend, (2.5, "clicked", mailbox.TOKEN))
        late = signup.UNCONFIRMED
        assert found == [410, late, late, {"step": "reminder sent", "confirmation": late}]

    def test_an_address_that_its_owner_has_not_given_is_not_confirmed(
        self, suspend: bool, mailbox: Mailbox
    ) -> None:
        token = mailbox.TOKEN
        found = self.play(suspend, (0.5, "disown", token), (0, "clicked", token))
        assert found[:2] == ["accepted", 410]
        assert found[2:] == [
            signup.DISOWNED,
            signup.DISOWNED,
            {"step": "welcome sent", "confirmation": signup.DISOWNED},
        ]


@pytest.mark.parametrize("suspend", [True, False], ids=["suspending at every await", "live"])
class TestPayment:
    @pytest.fixture
    def harness(self, suspend: bool) -> Iterator[Harness]:
        with Harness(payment.app, suspend=suspend) as harness:
            yield harness

    def test_a_payment_in_time_is_not_refunded(self, harness: Harness) -> None:
        paying = harness.send(payment.pay, payment.Order(order="o-1", cents=5))
        harness.advance(timedelta(minutes=14))
        harness.next_task(payment.REQUESTS).resolve({"receipt": "r-1"})
        assert paying.result().receipt == "r-1"
        assert harness.invocations(payment.refund) == []

    def test_a_late_success_is_refunded_once(self, harness: Harness) -> None:
        paying = harness.send(payment.pay, payment.Order(order="o-1", cents=5))
        task = harness.next_task(payment.REQUESTS)
        harness.advance(timedelta(minutes=16))
        with pytest.raises(TerminalError, match="not paid in time"):
            paying.result()
        harness.advance(timedelta(days=2))
        assert task.resolve({"receipt": "r-1"}).kind == "late"
        harness.crash()
        assert task.resolve({"receipt": "r-1"}).kind == "late"
        (refunding,) = harness.invocations(payment.refund)
        assert refunding.result() == "refund-of-r-1"

    def test_a_late_refusal_begins_nothing(self, harness: Harness) -> None:
        harness.send(payment.pay, payment.Order(order="o-1", cents=5))
        task = harness.next_task(payment.REQUESTS)
        harness.advance(timedelta(minutes=16))
        assert task.reject("no money").kind == "late"
        assert harness.invocations(payment.refund) == []


@pytest.mark.parametrize("suspend", [True, False], ids=["suspending at every await", "live"])
class TestTraining:
    WANTED = training.Dataset(dataset="cats", epochs=5)

    def test_a_worker_trains_all_of_it(self, suspend: bool) -> None:
        told = run(training.train, self.WANTED, workers=[training.trainer], suspend=suspend)
        assert told.value == {"file": "cats.model", "epochs": 5}

    def test_another_worker_goes_on_where_a_silent_one_was(self, suspend: bool) -> None:
        with Harness(training.app, suspend=suspend) as harness:
            running = harness.send(training.train, self.WANTED)
            harness.advance(timedelta(hours=5))  # the job waits for a GPU
            first = harness.next_task(training.JOBS)
            first.heartbeat()
            for epoch in (1, 2):
                harness.advance(timedelta(seconds=100))
                first.heartbeat(training.Checkpoint(epoch=epoch, file=f"cats-{epoch}.ckpt"))
            assert len(harness.tasks(training.JOBS)) == 1
            harness.advance(timedelta(seconds=121))
            second = harness.next_task(training.JOBS)
            assert second.payload["resume_from"] == {"epoch": 2, "file": "cats-2.ckpt"}
            assert [said["awakeable_id"] for said in harness.revocations] == [first.awakeable_id]
            harness.add_worker(training.trainer)
            second.resolve(training.Model(file="cats.model", epochs=5))
            assert running.result().file == "cats.model"

    def test_nobody_is_silent_before_he_has_begun(self, suspend: bool) -> None:
        with pytest.raises(TerminalError, match="timed out"):
            _ = run(training.train, self.WANTED, suspend=suspend).value


class TestAgent:
    @pytest.fixture
    def harness(self) -> Iterator[Harness]:
        with Harness(agent.app, thorough=True) as harness:
            yield harness

    def test_a_dangerous_tool_waits_for_a_person(self, harness: Harness) -> None:
        running = harness.send(agent.run, "refund order o-17")
        harness.advance(timedelta(days=2))
        (wait,) = harness.waiting()
        harness.crash()
        harness.resolve(wait.id, agent.Permission(allowed=True, by="ann"))
        assert running.result() == "done: 900 cents of o-17 were refunded"

    @pytest.mark.parametrize("answer", [agent.Permission(allowed=False, by="ann", reason="too much"), None])
    def test_without_a_permission_it_is_not_used(
        self, harness: Harness, answer: agent.Permission | None
    ) -> None:
        running = harness.send(agent.run, "refund order o-17")
        if answer is not None:
            harness.resolve(harness.waiting()[0].id, answer)
        expected = "nobody has allowed it in time" if answer is None else "ann does not allow it: too much"
        assert running.result() == f"done: {expected}"
        assert "run 'refund'" not in running.journal

    def test_a_model_that_fails_is_asked_again_and_never_twice_for_one_turn(self, harness: Harness) -> None:
        harness.fail("model", ConnectionError("overloaded"), times=2)
        harness.replace("look_up", lambda order: f"{order} is free")
        running = harness.send(agent.run, "refund order o-17")
        harness.advance(timedelta(minutes=5))
        harness.resolve(harness.waiting()[0].id, {"allowed": True, "by": "ann"})
        assert running.result().startswith("done")

    def test_a_tool_that_is_not_there_is_told_to_the_model(self, harness: Harness) -> None:
        seen: list[agent.Message] = []

        def model(messages: list[agent.Message]) -> agent.Turn:
            seen[:] = messages
            if len(messages) == 1:
                return agent.Turn(use=agent.ToolCall(tool="fly"))
            return agent.Turn(text="I can't fly")

        harness.replace("model", model)
        assert harness.call(agent.run, "fly") == "I can't fly"
        assert seen[-1].text == "there is no tool 'fly'"
