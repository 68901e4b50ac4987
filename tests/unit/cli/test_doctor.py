"""What `doctor` finds, one line each, and when it exits with 1."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from awakeables import Context, RemoteService, Service
from awakeables.core.commands import TakePartitions
from awakeables.core.replies import Begun, PartitionsTaken
from awakeables.core.versions import OpenInvocations, Versions
from awakeables.doctor.code import examine_code
from awakeables.doctor.service import examine_clock
from awakeables.doctor.storage import examine_disk, examine_store
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.remote.described import learn
from awakeables.store.sqlite.checkup import StoreCondition
from awakeables.store.sqlite.schema import migrate
from awakeables.store.sqlite.store import SqliteStore
from awakeables.store.usage import CodeUsage
from contract.driver import RETENTION_MS, START_MS, Driver, FakeClock
from support.functions import PRIVATE, ServedFunctions, function_of, responder_of
from unit.cli.conftest import Run, StubService

READY = "GET /health/ready"
BANK = """
from awakeables import App, Service

accounts = Service("accounts")

@accounts.handler()
async def close(ctx, name):
    return name

app = App("bank", services=[accounts])
"""
SHOP = """
from awakeables import App, Service

orders = Service("orders")

@orders.handler()
async def fulfil(ctx, name):
    return name

@orders.handler(topic="numbers")
async def count(ctx, number: int):
    return number

app = App("shop", services=[orders])
"""
ELSEWHERE = """
import os
from awakeables import App, RemoteService

app = App("shop", services=[RemoteService("orders", url=os.environ["ORDERS_URL"])])
"""
Found = dict[str, tuple[str, str]]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def doctored(run: Run, store: Path, **environment: str) -> tuple[int, Found]:
    told = run("doctor", "--json", "--kafka", "127.0.0.1:9", "--store", str(store), **environment)
    return told.exit_code, {row["subject"]: (row["level"], row["text"]) for row in json.loads(told.stdout)}


def test_one_line_for_each_thing_also_when_nothing_runs(run: Run, tmp_path: Path) -> None:
    words = ("--kafka", "127.0.0.1:9", "--store", str(tmp_path / "a.db"), "--url", "http://127.0.0.1:9")
    told = run("doctor", *words)
    assert told.exit_code == 1
    lines = [line.split()[:2] for line in told.stdout.splitlines()]
    subjects = ["settings", "broker", "topics", "store", "disk", "service", "clock"]
    assert [subject for _, subject in lines] == subjects
    assert ["FAULT", "broker"] in lines
    assert ["warn", "store"] in lines
    assert "nothing listens at 127.0.0.1:9" in told.stdout


def test_a_service_that_is_ready_is_in_order_and_so_is_its_clock(
    run: Run, stub: StubService, tmp_path: Path
) -> None:
    stub.will_answer(READY, {"ready": True})
    _, found = doctored(run, tmp_path / "a.db")
    assert found["service"][0] == "ok"
    assert found["clock"][1].endswith("as the service's")


def test_a_service_that_is_not_ready_is_a_fault_in_its_own_words(
    run: Run, stub: StubService, tmp_path: Path
) -> None:
    stub.will_answer(READY, {"ready": False, "problems": {"broker": "it is away"}}, 503)
    code, found = doctored(run, tmp_path / "a.db")
    assert code == 1
    assert found["service"] == ("FAULT", f"{stub.url} is not ready: broker: it is away")


def test_case_o7_a_service_that_is_degraded_is_a_fault_that_says_that_work_is_taken(
    run: Run, stub: StubService, tmp_path: Path
) -> None:
    stub.will_answer(READY, {"ready": True, "degraded": {"broker": "it is away"}})
    code, found = doctored(run, tmp_path / "a.db")
    assert code == 1
    assert found["service"] == ("FAULT", f"{stub.url} accepts work but is degraded: broker: it is away")


def test_another_program_at_the_url_is_distinguished_from_the_service(
    run: Run, stub: StubService, tmp_path: Path
) -> None:
    stub.will_answer(READY, b"<html>")
    _, found = doctored(run, tmp_path / "a.db")
    assert found["service"] == ("warn", f"what answers at {stub.url} is another program")


@pytest.mark.parametrize(
    ("environment", "level", "told"),
    [
        ({"AWAKEABLES_HOST": "0.0.0.0"}, "FAULT", "without tokens, open to anyone"),
        ({"AWAKEABLES_HOST": "0.0.0.0", "AWAKEABLES_INSECURE": "1"}, "warn", "may do anything"),
        ({"AWAKEABLES_ALWAYS_SUSPEND": "1"}, "warn", "for tests"),
        ({"AWAKEABLES_TOKENS_FILE": "/nowhere.toml"}, "FAULT", "/nowhere.toml"),
        ({}, "ok", "set, all others at their defaults"),
    ],
)
def test_unsafe_settings_are_reported(
    environment: dict[str, str], level: str, told: str, run: Run, tmp_path: Path
) -> None:
    _, found = doctored(run, tmp_path / "a.db", **environment)
    assert found["settings"][0] == level
    assert told in found["settings"][1]


def test_a_file_with_secrets_that_others_can_read_is_reported(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "awakeables.toml"
    file.write_text('token = "hush"\n')
    file.chmod(0o644)
    _, found = doctored(run, tmp_path / "a.db", AWAKEABLES_CONFIG=str(file))
    assert found["settings"] == ("warn", f"{file} contains secrets and is readable by others: chmod 600")
    file.chmod(0o600)
    _, found = doctored(run, tmp_path / "a.db", AWAKEABLES_CONFIG=str(file))
    assert found["settings"][0] == "ok"


def test_a_setting_that_can_not_be_ends_it_in_one_line(run: Run) -> None:
    told = run("doctor", AWAKEABLES_PORT="many")
    assert told.exit_code == 1
    assert "AWAKEABLES_PORT" in str(told.exception)


def test_contradictory_settings_of_kafka_are_a_fault(run: Run, tmp_path: Path) -> None:
    code, found = doctored(run, tmp_path / "a.db", AWAKEABLES_KAFKA_SASL_USERNAME="me")
    assert code == 1
    assert found["broker"][0] == "FAULT"
    assert "AWAKEABLES_KAFKA_SASL_USERNAME" in found["broker"][1]


async def test_a_store_that_is_open_is_left_in_peace(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore(path, clock=FakeClock(), retention_ms=RETENTION_MS)
    await store.open()
    finding, _ = examine_store(path, clock=FakeClock())
    await store.close()
    assert finding.level == "ok"
    assert f"open in process {os.getpid()}" in finding.text


async def test_a_store_that_is_closed_is_read_through_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore(path, clock=FakeClock(), retention_ms=RETENTION_MS)
    await store.open()
    await store.close()
    before = hashlib.sha256(path.read_bytes()).digest()
    finding, _ = examine_store(path, clock=FakeClock())
    assert (finding.level, finding.text.split(", ")[1:]) == ("ok", ["not open", "no damage found"])
    assert hashlib.sha256(path.read_bytes()).digest() == before


async def test_a_store_of_another_app_is_a_fault_and_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore(path, clock=FakeClock(), retention_ms=RETENTION_MS, app="shop")
    await store.open()
    await store.close()
    before = path.read_bytes()
    for app, level in (("shop", "ok"), ("", "ok"), ("bank", "FAULT")):
        finding, _ = examine_store(path, clock=FakeClock(), app=app)
        assert finding.level == level
    assert "is the store of the app 'shop', not of 'bank'" in finding.text
    assert path.read_bytes() == before


def test_the_doctor_checks_the_app_s_name(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bank.py").write_text(BANK)
    monkeypatch.syspath_prepend(tmp_path)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        migrate(connection, "a.db", "shop")
    words = ("--json", "--kafka", "127.0.0.1:9", "--store", str(tmp_path / "a.db"))
    told = run("doctor", "bank:app", *words)
    store = next(row for row in json.loads(told.stdout) if row["subject"] == "store")
    assert (told.exit_code, store["level"]) == (1, "FAULT")
    assert "not of 'bank'" in store["text"]


def test_what_the_store_needs_and_the_code_has_not_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "storefront.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    words = ("storefront:app", "--json", "--kafka", "127.0.0.1:9", "--store", str(tmp_path / "a.db"))

    clock = FakeClock()

    async def fill(fills: Callable[[Driver], Awaitable[None]]) -> None:
        clock.ms += 1
        store = SqliteStore(tmp_path / "a.db", clock=clock, retention_ms=RETENTION_MS, app="shop")
        await store.open()
        await fills(Driver(store, clock))
        await store.close()

    def code() -> tuple[str, list[str]]:
        found = json.loads(run("doctor", *words).stdout)
        [row] = [row for row in found if row["subject"] == "code"]
        return row["level"], row["text"].split("; ")

    async def what_is_there(driver: Driver) -> None:
        await driver.begin(service="orders")
        take = TakePartitions(owner="me", topic="numbers", partitions=(0,), subscription="orders.count")
        await driver.do(PartitionsTaken, take)

    async def what_is_gone(driver: Driver) -> None:
        await driver.do(Begun, replace(driver.a_begin(), versions=Versions(handler=3)))
        for _ in range(2):
            await driver.begin(service="gone")
        for name, topic, partitions in (("orders.listed", "numbers", (0, 1)), ("old", "letters", (4,))):
            take = TakePartitions(owner="me", topic=topic, partitions=partitions, subscription=name)
            await driver.do(PartitionsTaken, take)

    asyncio.run(fill(what_is_there))
    assert code() == ("ok", ["it has every handler and subscription that the store needs"])
    asyncio.run(fill(what_is_gone))
    paused = "which is not in the code: they are paused when they go on"
    advice = "deploy that version again and resume them, or end them with `awakeables kill`"
    gone = "any more, of which"
    assert code() == (
        "warn",
        [
            *(f"2 open invocations of gone/fulfil, version 1, {paused}", advice),
            *(f"1 open invocation of orders/fulfil, version 3, {paused}", advice),
            f"no handler has the subscription old of letters {gone} 1 partition was read",
            f"no handler has the subscription orders.listed of numbers {gone} 2 partitions were read",
        ],
    )


def test_a_subscription_that_begins_in_the_place_of_another_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "storefront.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    usage = CodeUsage((), {("orders.listed", "numbers"): 2})
    found = examine_code(load("storefront:app", App, "app"), usage)
    assert (found.level, found.text) == (
        "warn",
        "no handler has the subscription orders.listed of numbers any more, of which 2 partitions were read: "
        "orders.count begins at its start (earliest); declare it with name='orders.listed' if it is to go "
        "on where that was",
    )


def test_a_store_of_an_older_schema_is_not_asked_what_it_needs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "storefront.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        migrate(connection, "a.db", "shop")
        connection.execute("PRAGMA user_version = 1")
    words = ("storefront:app", "--json", "--kafka", "127.0.0.1:9", "--store", str(tmp_path / "a.db"))
    found = {row["subject"]: row["text"] for row in json.loads(run("doctor", *words).stdout)}
    assert "the next start migrates it" in found["store"]
    assert "code" not in found


def test_a_folder_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    finding, _ = examine_store(tmp_path / "nowhere" / "a.db", clock=FakeClock())
    assert finding.level == "FAULT"
    assert "create it" in finding.text


def test_a_folder_in_the_place_of_the_file_is_a_fault(tmp_path: Path) -> None:
    finding, _ = examine_store(tmp_path, clock=FakeClock())
    assert (finding.level, finding.text) == (
        "FAULT",
        f"{tmp_path} is a folder: name a database file in it",
    )


@pytest.mark.parametrize(
    ("total", "free", "level"),
    [(100 << 30, 50 << 30, "ok"), (100 << 30, 4 << 30, "FAULT"), (10 << 30, 1 << 29, "FAULT")],
)
def test_less_than_a_gibibyte_or_a_twentieth_is_a_fault(
    total: int, free: int, level: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, total - free, free))
    assert examine_disk(tmp_path / "a.db").level == level


@pytest.mark.parametrize(
    ("service_ms", "newest_ms", "level"),
    [
        (START_MS, START_MS, "ok"),
        (START_MS - 900, None, "ok"),
        (START_MS + 60_000, None, "FAULT"),
        (None, START_MS - 1, "ok"),
        (None, START_MS + 60_000, "FAULT"),
    ],
)
def test_a_clock_apart_from_the_service_s_or_behind_the_store_is_a_fault(
    service_ms: int | None, newest_ms: int | None, level: str
) -> None:
    condition = StoreCondition(newest_version=1, newest_ms=newest_ms)
    assert examine_clock(service_ms, condition, clock=FakeClock()).level == level


def test_functions_are_asked_what_they_have(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    (tmp_path / "key.pem").write_bytes(PRIVATE)
    monkeypatch.syspath_prepend(tmp_path)
    orders = Service("orders")

    @orders.handler()
    async def fulfil(ctx: Context, name: str) -> str:
        return name

    def told(url: str, **environment: str) -> list[tuple[str, str]]:
        sys.modules.pop("elsewhere", None)
        store = str(tmp_path / "a.db")
        words = (
            "doctor",
            "elsewhere:app",
            "--json",
            "--kafka",
            "127.0.0.1:9",
            "--store",
            store,
        )
        rows = json.loads(run(*words, ORDERS_URL=url, **environment).stdout)
        return [(row["level"], row["text"]) for row in rows if row["subject"] == "function"]

    with ServedFunctions().running() as served:
        served.served = function_of(App("functions", services=[orders]), build="7")
        key = {"AWAKEABLES_FUNCTION_KEY": str(tmp_path / "key.pem")}
        assert told(served.url, **key) == [("ok", f"orders at {served.url}, build 7: fulfil")]
        [(level, text)] = told(served.url)
        assert level == "FAULT"
        assert "AWAKEABLES_FUNCTION_KEY is not set" in text
    [(level, text)] = told("http://127.0.0.1:9", **key)
    assert level == "FAULT"
    assert text.startswith("orders: the function of orders at http://127.0.0.1:9 can't be reached")
    [(level, text)] = told("http://127.0.0.1:9", AWAKEABLES_FUNCTION_KEY=str(tmp_path / "nowhere"))
    assert level == "FAULT"
    assert text.startswith("AWAKEABLES_FUNCTION_KEY")


@pytest.mark.parametrize(("has", "level"), [(None, "ok"), ("fulfil", "ok"), ("list", "warn")])
def test_code_is_missing_in_a_function_only_if_it_was_asked(has: str | None, level: str) -> None:
    async def handler(ctx: Context) -> None: ...

    service, elsewhere = RemoteService("orders", url="http://127.0.0.1:9"), Service("orders")
    if has is not None:
        elsewhere.handler(has)(handler)
        learn(service, responder_of(App("functions", services=[elsewhere])).function.description)
    rows = OpenInvocations(service="orders", handler="fulfil", versions=Versions(), count=3, oldest_ms=0)
    found = examine_code(App("shop", services=[service]), CodeUsage((rows,), {}))
    assert found.level == level
