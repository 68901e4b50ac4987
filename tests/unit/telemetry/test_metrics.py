"""What is counted while an engine works, and how it is asked for."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from awakeables.core.commands import Begin
from awakeables.core.invocations import BackOff, Continue, End, Failure, Next, Pause, Suspend
from awakeables.core.outcomes import Cancellation, Rejection, Resolution
from awakeables.engine.readiness import Readiness
from awakeables.engine.rowgauges import RowGauges, show_readiness
from awakeables.errors import (
    BrokerUnavailable,
    PublishRefused,
    StoreUnavailable,
    TerminalError,
)
from awakeables.handlers.context import Context
from awakeables.handlers.objectcontext import ObjectContext
from awakeables.handlers.service import App, VirtualObject
from awakeables.telemetry.metrics import Metrics, WorkerMetrics, end_of, exposition
from awakeables.testing.bench import Bench, until

FAILURE = Failure(kind="ValueError", message="no", at_ms=1)

IDLE = {
    "Expired(wakes=())",
    "Claimed(invocations=(), effect_ids=())",
    "ClaimedEffects(effect_ids=())",
    "Purged(count=0)",
}
"""What a service at rest hears from its store all the time."""


def value(metrics: Metrics | WorkerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"awakeables_{name}", labels)


async def ask(ctx: Context) -> Any:
    waits = ctx.awakeable()
    ctx.publish("tasks", {"n": 1}, awakeable=waits)
    return await waits


async def refuse(ctx: Context) -> None:
    raise TerminalError("no")


async def crash(ctx: Context) -> None:
    raise ValueError("no")


carts = VirtualObject("carts")


@carts.handler()
async def hold(ctx: ObjectContext) -> None:
    await ctx.awakeable()


async def test_a_callback_is_counted_from_its_commit_to_its_end() -> None:
    bench = Bench()
    async with bench.serving(ask=ask) as process:
        invocation_id = await bench.begin(process, "ask")
        await bench.status(invocation_id, "suspended")
        await until(lambda: bench.broker.published)
        awakeable = await bench.awakeable(invocation_id)
        for source in ("http:1", "http:2"):
            await bench.settle(process, awakeable.id, "done", source)
        await bench.status(invocation_id, "completed")
        await process.engine.settled_down()
        metrics = process.engine.metrics
        of = {"service": "orders", "handler": "ask"}
        assert value(metrics, "attempts_total", **of, end="suspended") == 1
        assert value(metrics, "attempts_total", **of, end="succeeded") == 1
        assert value(metrics, "attempt_seconds_count", **of) == 2
        assert value(metrics, "verdicts_total", kind="accepted", origin="http") == 1
        assert value(metrics, "verdicts_total", kind="duplicate", origin="http") == 1
        assert value(metrics, "publishes_total", result="published") == 1
        written = [answers for answers in bench.store.answers if not set(map(repr, answers)) <= IDLE]
        assert value(metrics, "commit_seconds_count") == len(written)
        assert value(metrics, "commit_members_sum") == sum(map(len, written))
        assert value(metrics, "handlers_live") == value(metrics, "commit_waiting") == 0
        looks = len(bench.store.answers)
        await asyncio.sleep(5)
        assert len(bench.store.answers) > looks + 10, "a service at rest looks at its rows"
        assert value(metrics, "commit_seconds_count") == len(written), "which is no commit"


async def test_attempts_are_counted_by_how_they_end() -> None:
    bench = Bench()
    async with bench.serving(refuse=refuse, crash=crash) as process:
        await bench.status(await bench.begin(process, "refuse"), "completed")
        await bench.status(await bench.begin(process, "crash"), "backing-off")
        for handler, end in (("refuse", "failed"), ("crash", "backing-off")):
            of = {"service": "orders", "handler": handler, "end": end}
            await until(lambda of=of: value(process.engine.metrics, "attempts_total", **of) == 1)  # type: ignore[misc]


async def test_records_of_kafka_are_counted_by_verdict_and_dead_letters_by_code() -> None:
    bench = Bench()
    async with bench.serving(ask=ask) as process:
        awakeable = await bench.awakeable(await bench.begin(process, "ask"))
        unknown = process.engine.ids.new("prom")
        await bench.records(
            process,
            b"no JSON",
            b'{"awakeable_id":"%s","status":"resolved","value":1}' % unknown.encode(),
            b'{"awakeable_id":"%s","status":"heartbeat"}' % awakeable.id.encode(),
            b'{"awakeable_id":"%s","status":"resolved","value":1}' % awakeable.id.encode(),
        )
        metrics = process.engine.metrics
        assert value(metrics, "verdicts_total", kind="accepted", origin="kafka") == 1
        assert value(metrics, "verdicts_total", kind="unknown", origin="kafka") == 1
        assert value(metrics, "heartbeats_total", origin="kafka") == 1
        assert value(metrics, "dead_letters_total", code="unreadable") == 1
        assert value(metrics, "dead_letters_total", code="unknown") == 1


async def test_failures_of_the_store_and_of_the_broker_are_counted() -> None:
    bench = Bench()
    async with bench.serving(ask=ask) as process:
        failures = [BrokerUnavailable("away"), PublishRefused("too large")]
        bench.broker.fail = lambda _effect: failures.pop(0) if failures else None
        bench.store.lose_before = 2
        invocation_id = await bench.begin(process, "ask")
        await bench.status(invocation_id, "completed")
        bench.store.refuses = lambda member: isinstance(member, Begin)
        with pytest.raises(Exception, match="can't be kept"):
            await bench.begin(process, "ask")
        metrics = process.engine.metrics
        assert value(metrics, "publishes_total", result="retried") == 1
        assert value(metrics, "publishes_total", result="refused") == 1
        assert value(metrics, "commit_failures_total", problem="unavailable") == 2
        # The invocation was to be created with its first step, and then without it.
        assert value(metrics, "commit_failures_total", problem="refused") == 2


async def test_the_gauges_show_rows_and_how_old_they_are() -> None:
    bench = Bench()
    async with bench.serving(ask=ask, crash=crash) as process:
        bench.broker.fail = lambda _effect: BrokerUnavailable("away")
        await bench.status(await bench.begin(process, "ask"), "suspended")
        await bench.status(await bench.begin(process, "crash"), "backing-off")
        made_ms = min(row.created_ms for row in bench.store.tables.awakeables.values())
        metrics = Metrics()
        await RowGauges(bench.store.counts, metrics, clock=bench.clock).take()
        now_ms = bench.clock.now_ms()
        assert value(metrics, "pending") == 1
        assert value(metrics, "pending_oldest_seconds") == (now_ms - made_ms) / 1000
        assert value(metrics, "outbox_unsent") == 1
        assert value(metrics, "outbox_oldest_seconds") == (now_ms - made_ms) / 1000
        assert value(metrics, "outbox_failed") == value(metrics, "dead_letters_kept") == 0
        assert value(metrics, "invocations", status="suspended") == 1
        assert value(metrics, "invocations", status="backing-off") == 1
        assert value(metrics, "invocations", status="paused") == 0
        assert value(metrics, "rows_counted_timestamp_seconds") == now_ms / 1000


async def test_the_age_of_the_oldest_that_is_next_in_line_for_a_key_is_shown() -> None:
    bench = Bench()
    app = App("shop", services=[carts])
    async with bench.running(app) as process:
        metrics = Metrics()
        gauges = RowGauges(bench.store.counts, metrics, clock=bench.clock, objects=["carts", "shelves"])
        await gauges.take()
        assert value(metrics, "queued_oldest_seconds", object="carts") == 0
        queued = []
        for key in ("b", "a"):
            for _ in range(3):
                begun = await process.api.begin(app.handler("carts", "hold"), None, key=key)
                queued.append(bench.store.tables.invocations[begun.id])
                await asyncio.sleep(10)
        await gauges.take()
        age_s = (bench.clock.now_ms() - queued[1].created_ms) / 1000
        assert value(metrics, "queued_oldest_seconds", object="carts") == age_s
        assert value(metrics, "queued_oldest_seconds", object="shelves") == 0
        assert value(metrics, "invocations", status="queued") == 4


async def test_an_object_that_the_app_has_not_is_shown_and_reset_once_nothing_waits_for_its_keys() -> None:
    bench = Bench()
    app = App("shop", services=[carts])
    async with bench.running(app) as process:
        metrics = Metrics()
        gauges = RowGauges(bench.store.counts, metrics, clock=bench.clock)
        await gauges.take()
        assert value(metrics, "queued_oldest_seconds", object="carts") is None
        begun = [await process.api.begin(app.handler("carts", "hold"), None, key="a") for _ in range(2)]
        await asyncio.sleep(10)
        await gauges.take()
        assert value(metrics, "queued_oldest_seconds", object="carts") == 10
        await process.api.kill(begun[1].id)
        await gauges.take()
        assert value(metrics, "queued_oldest_seconds", object="carts") == 0


async def test_the_gauges_are_set_again_when_the_store_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    metrics = Metrics()
    down = [True, True, False]
    counts = bench.store.counts

    async def fragile() -> Any:
        if down.pop(0):
            raise StoreUnavailable("gone")
        raise Stopped(await counts())

    monkeypatch.setattr(bench.store, "counts", fragile)
    with pytest.raises(Stopped):
        await RowGauges(bench.store.counts, metrics, clock=bench.clock, interval=timedelta(seconds=5)).run()
    assert down == []


async def test_case_o2_a_count_that_takes_long_makes_the_gauges_no_older_than_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    metrics = Metrics()
    counts = bench.store.counts

    async def slow() -> Any:
        await asyncio.sleep(2)
        return await counts()

    monkeypatch.setattr(bench.store, "counts", slow)
    gauges = RowGauges(bench.store.counts, metrics, clock=bench.clock, interval=timedelta(seconds=5))
    running = asyncio.ensure_future(gauges.run())
    ages = []
    for _ in range(400):
        await asyncio.sleep(0.5)
        ages.append(value(metrics, "rows_counted_age_seconds") or 0.0)
    running.cancel()
    assert 6 <= max(ages) <= 7
    assert sum(age <= 0.5 for age in ages) > 20


async def test_case_o2_gauges_that_are_never_counted_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    metrics = Metrics()

    async def gone() -> Any:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(bench.store, "counts", gone)
    running = asyncio.ensure_future(RowGauges(bench.store.counts, metrics, clock=bench.clock).run())
    await asyncio.sleep(100)
    assert value(metrics, "rows_counted_age_seconds") == pytest.approx(100)
    running.cancel()


class Stopped(Exception):
    pass


def test_readiness_is_reported_at_every_scrape() -> None:
    metrics = Metrics()
    problems: dict[str, str] = {}
    show_readiness(metrics, problems, lambda: Readiness.of(problems))
    problems["tokens"] = "x"
    assert value(metrics, "ready") == 1
    problems |= {
        "store": "x",
        "completions topic": "x",
        "partition 3": "x",
        "partition 4": "x",
        "tokens": "x",
    }
    assert value(metrics, "ready") == 0
    told = {
        about: value(metrics, "problems", about=about) for about in ("store", "topic", "partition", "broker")
    }
    assert told == {"store": 1, "topic": 1, "partition": 2, "broker": 0}
    assert value(metrics, "problems", about="other") == 1


@pytest.mark.parametrize(
    ("step", "end"),
    [
        (End(result=Resolution.of_json(b"1")), "succeeded"),
        (End(result=Rejection(reason="x")), "failed"),
        (End(result=Cancellation(reason="x")), "cancelled"),
        (Suspend(wake=0), "suspended"),
        (BackOff(due_ms=1, failure=FAILURE), "backing-off"),
        (Pause(failure=FAILURE), "paused"),
        (Continue(), "left"),
        (None, "left"),
    ],
)
def test_every_last_step_has_its_end(step: Next | None, end: str) -> None:
    assert end_of(step) == end


def test_engines_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.dead_letters_added("invalid")
    assert (
        value(one, "dead_letters_total", code="invalid"),
        value(other, "dead_letters_total", code="invalid"),
    ) == (1, 0)


@pytest.mark.parametrize("accept", ["", "text/plain", "*/*", "application/openmetrics-text; version=1.0.0"])
def test_metrics_are_served_in_the_format_that_the_scraper_accepts(accept: str) -> None:
    content, media_type = exposition(Metrics().registry, accept)
    assert media_type.split(";")[0] == ("application/openmetrics-text" if "open" in accept else "text/plain")
    assert b"# TYPE awakeables_pending gauge" in content
    if "open" not in accept:
        assert "awakeables_verdicts" in {f.name for f in text_string_to_metric_families(content.decode())}
