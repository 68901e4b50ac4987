"""`rekey`, and what `verify` and `doctor` say of a store with sealed values."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, Driver, FakeClock
from support.keys import ring
from unit.cli.conftest import Run

APPS = """
from awakeables import App, Service
from support.keys import ring

services = [Service("orders")]
clear = App("shop", services=services)
old = App("shop", services=services, codec=ring("old"))
both = App("shop", services=services, codec=ring("old", "new"))
new = App("shop", services=services, codec=ring("new"))
lost = App("shop", services=services, codec=ring("new", lost=["old"]))
"""


@pytest.fixture(autouse=True)
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keyed_apps.py").write_text(APPS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A file with a suspended invocation that is sealed with the key `old`, closed."""
    path, clock = tmp_path / "shop.db", FakeClock()

    async def fill() -> None:
        opened = SqliteStore(path, clock=clock, retention_ms=RETENTION_MS, app="shop", codec=ring("old"))
        await opened.open()
        await Driver(opened, clock).waiting()
        await opened.close()

    asyncio.run(fill())
    return path


def test_the_key_that_no_value_is_sealed_with_any_more_is_named(run: Run, store: Path) -> None:
    told = run("rekey", "keyed_apps:both", "--store", str(store))
    assert told.exit_code == 0
    assert told.stdout.splitlines() == [
        "3 values written again",
        "no value is sealed with the key 'old' any more: it may leave the key ring",
    ]
    assert run("verify", "keyed_apps:new", "--store", str(store)).exit_code == 0
    again = json.loads(run("rekey", "keyed_apps:new", "--store", str(store), "--json").stdout)
    assert again == {"values": 0, "unread": 0, "dropped": [], "kept": []}


def test_values_are_stored_in_clear_again_for_an_app_without_a_codec(run: Run, store: Path) -> None:
    told = run("rekey", "keyed_apps:old", "--clear", "--store", str(store))
    assert told.exit_code == 0
    assert "no value is sealed with the key 'old' any more" in told.stdout
    assert run("verify", "keyed_apps:clear", "--store", str(store)).exit_code == 0
    assert run("verify", "--store", str(store)).exit_code == 0


def test_values_whose_key_is_lost_are_counted_and_left(run: Run, store: Path) -> None:
    told = run("rekey", "keyed_apps:lost", "--store", str(store))
    assert told.exit_code == 1
    assert "3 values could not be opened" in told.stderr
    assert "values are still sealed with the key 'old': keep it" in told.stderr
    assert run("verify", "keyed_apps:old", "--store", str(store)).exit_code == 1  # `new` was added
    assert run("verify", "keyed_apps:both", "--store", str(store)).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keyed_apps:clear"], "keyed_apps:clear has no codec"),
        (["keyed_apps:new"], "the key 'old' is not in the key ring"),
        (["keyed_apps:both", "--store", "memory:"], "nothing of it is at rest"),
        (["keyed_apps:both", "--store", "none.db"], "there is no store none.db to rekey"),
    ],
)
def test_what_can_t_be_rekeyed_is_refused(run: Run, store: Path, words: list[str], message: str) -> None:
    where = [] if "--store" in words else ["--store", str(store)]
    told = run("rekey", *words, *where)
    assert told.exit_code == 1
    assert message in told.stderr + str(told.exception)


def test_a_file_that_a_service_has_open_is_not_rekeyed(run: Run, store: Path) -> None:
    async def beside() -> str:
        opened = SqliteStore(store, clock=FakeClock(), retention_ms=RETENTION_MS, codec=ring("old"))
        await opened.open()
        try:
            told = await asyncio.to_thread(run, "rekey", "keyed_apps:both", "--store", str(store))
            return str(told.exception)
        finally:
            await opened.close()

    assert "is held by process" in asyncio.run(beside())


def test_verify_asks_for_the_app_whose_codec_opens_the_store(run: Run, store: Path) -> None:
    told = run("verify", "--store", str(store))
    assert told.exit_code == 1
    assert "name the app, whose codec opens them" in told.stderr
    assert "'old' is not in the key ring" in str(
        run("verify", "keyed_apps:new", "--store", str(store)).exception
    )


@pytest.mark.parametrize(
    ("app", "level"), [("old", "ok"), ("both", "ok"), ("new", "FAULT"), ("clear", "FAULT")]
)
def test_the_doctor_finds_a_missing_key(run: Run, store: Path, app: str, level: str) -> None:
    told = run("doctor", f"keyed_apps:{app}", "--json", "--kafka", "127.0.0.1:9", "--store", str(store))
    found = next(row for row in json.loads(told.stdout) if row["subject"] == "store")
    assert found["level"] == level, found["text"]
    assert level == "ok" or "sealed with the key 'old'" in found["text"]
