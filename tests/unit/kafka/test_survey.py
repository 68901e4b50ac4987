"""Which topics an app and its workers need."""

from __future__ import annotations

from awakeables.handlers.context import Context
from awakeables.handlers.service import App, Service
from awakeables.kafka.survey import topics_of
from awakeables.worker.task import Task
from awakeables.worker.worker import Worker

SHOP = App("shop", services=[Service("orders")])
OWN = {
    "shop.completions": "completions",
    "shop.completions.dlq": "dead letters",
    "shop.revocations": "revocations",
}

packer = Worker("packer")


@packer.task("packing")
async def pack(task: Task[str]) -> None: ...


def test_case_w2_each_task_topic_comes_with_one_for_its_dead_letters() -> None:
    assert topics_of(SHOP, [packer], ["printing"]) == OWN | {
        "printing": "tasks",
        "packing": "tasks",
        "printing.dlq": "dead letters",
        "packing.dlq": "dead letters",
    }


def test_case_w2_a_worker_that_reads_dead_letters_makes_them_tasks() -> None:
    roles = topics_of(SHOP, [], ["packing", "packing.dlq"])
    assert roles["packing.dlq"] == "tasks"
    assert roles["packing.dlq.dlq"] == "dead letters"


def test_a_topic_of_ours_that_a_subscription_reads_is_still_ours() -> None:
    losses = Service("losses")

    @losses.handler(topic="packing.dlq")
    async def count(ctx: Context, lost: bytes) -> None: ...

    @losses.handler(topic="sales")
    async def add(ctx: Context, sale: bytes) -> None: ...

    roles = topics_of(App("shop", services=[losses]), [packer])
    assert (roles["packing.dlq"], roles["sales"]) == ("dead letters", "subscribed")


def test_an_app_alone_has_no_task_topics() -> None:
    assert topics_of(SHOP, []) == OWN
    assert topics_of(SHOP, [], verdicts=True) == OWN | {"shop.verdicts": "verdicts"}
