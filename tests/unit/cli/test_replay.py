"""`replay`: each hash seed in an interpreter of its own, and what is printed of all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unit.cli.conftest import Run

INVOCATION = "inv_101hf7yat0060rk4csm6mv3ee1s3zhr432"
NAMES = "abcdefgh"
SHOP = f"""
from awakeables import App, Context, Service

print("imported")
orders = Service("orders")


@orders.handler()
async def pack(ctx: Context) -> int:
    for name in set("{NAMES}"):
        await ctx.run(name, lambda: None)
    return 8


app = App("shop", services=[orders])
"""


def order_of_the_set(seed: int) -> list[str]:
    program = f"import json; print(json.dumps(list(set({NAMES!r}))))"
    told = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": str(seed)},
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    names: list[str] = json.loads(told)
    return names


def journal(*names: str, result: Any = 8, handler: str = "pack", **others: Any) -> str:
    """The journal of an invocation whose handler ran these actions in this order."""
    entries: list[Any] = [{"k": "input", "service": "orders", "handler": handler, "seed": "", "at_ms": 1}]
    for name in names:
        outcome = {"status": "resolved", "value": None}
        entries += [{"k": "run", "name": name}, {"k": "outcome", "of": len(entries), "outcome": outcome}]
    document = {
        "format": 1,
        "app": "shop",
        "invocation_id": INVOCATION,
        "service": "orders",
        "handler": handler,
        "exclusive": False,
        "status": "completed",
        "result": {"status": "resolved", "value": result},
        "entries": entries,
    }
    return json.dumps(document | others)


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "journals").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_order_of_a_set_differs_with_another_hash_seed_alone(run: Run, shop: Path) -> None:
    (shop / "a.json").write_text(journal(*order_of_the_set(1)))
    told = run("replay", "a.json", "--app", "shop:app", "--hash-seed", "1")
    assert told.stdout.splitlines() == [
        f"ok           a.json  orders/pack  {INVOCATION}",
        "1 journal replayed with the hash seed 1: 1 ok",
    ]
    assert told.exit_code == 0
    told = run("replay", "a.json", "--app", "shop:app")
    assert told.exit_code == 1
    first, *lines, last = told.stdout.splitlines()
    assert first == f"differs      a.json  orders/pack  {INVOCATION}  (with the hash seeds 0, 2)"
    assert lines[0].startswith("    the handler no longer does what its journal says")
    assert any("+       the handler asks for: run" in line for line in lines)
    assert last == "1 journal replayed with the hash seeds 0, 1, 2: 1 differs"


def test_folders_and_files_are_replayed_and_counted_and_printed_as_json(run: Run, shop: Path) -> None:
    order = order_of_the_set(0)
    (shop / "journals/1.json").write_text(journal(*order))
    (shop / "journals/2.json").write_text(journal(*order, result=9))
    (shop / "journals/3.json").write_text(journal(*order, format=2))
    (shop / "journals/notes.txt").write_text("no journal")
    (shop / "other.json").write_text(journal(handler="unpack"))
    words = ("replay", "other.json", "journals", "--app", "shop:app", "--hash-seed", "0")
    told = run(*words)
    assert told.exit_code == 1
    assert told.stdout.splitlines() == [
        f"differs      other.json  orders/unpack  {INVOCATION}",
        "    service 'orders' has no handler 'unpack'; it has: pack",
        f"ok           journals/1.json  orders/pack  {INVOCATION}",
        f"differs      journals/2.json  orders/pack  {INVOCATION}",
        "    the handler ends with another result than its journal has:",
        "      - 9",
        "      + 8",
        "not decided  journals/3.json",
        "    the journal has the format 2, and this release reads the format 1: "
        "read it with the release that stored it, or store it again with this one",
        "4 journals replayed with the hash seed 0: 1 ok, 2 differ, 1 not decided",
    ]
    told = run(*words, "--json")
    assert told.exit_code == 1
    items = json.loads(told.stdout)
    assert [item["verdict"] for item in items] == ["differs", "ok", "differs", "not decided"]
    assert items[1] == {
        "path": "journals/1.json",
        "invocation_id": INVOCATION,
        "handler": "orders/pack",
        "difference": None,
        "verdict": "ok",
        "hash_seeds": [0],
    }


def test_a_folder_without_journals_is_not_ok(run: Run) -> None:
    told = run("replay", "journals", "--app", "shop:app", "--hash-seed", "0")
    assert told.exit_code == 1
    assert "the folder has no journals (*.json)" in told.stdout


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ("shop", "is not of the form MODULE:NAME"),
        ("nowhere:app", "no module 'nowhere'"),
        ("shop:orders", "it has: app"),
        ("broken:app", "the replay with the hash seed 0 ended with exit code 1"),
    ],
)
def test_an_app_that_can_not_be_loaded_is_an_error_in_one_line(
    run: Run, shop: Path, app: str, expected: str
) -> None:
    (shop / "broken.py").write_text("1 / 0")
    (shop / "a.json").write_text(journal())
    told = run("replay", "a.json", "--app", app)
    assert told.exit_code == 1
    assert told.stderr.startswith("error: ")
    assert expected in told.stderr
    assert told.stderr.count("\n") == 1
    assert told.stdout == ""


@pytest.mark.parametrize("words", ["a.json", "--app shop:app", "a.json --app shop:app --hash-seed 0,x"])
def test_what_is_missing_or_no_number_is_a_usage_error(run: Run, words: str) -> None:
    assert run("replay", *words.split()).exit_code == 2


@pytest.mark.parametrize("seeds", ["", "-1", "4294967296", "0,,1"])
def test_a_hash_seed_that_python_would_refuse_is_a_usage_error(run: Run, seeds: str) -> None:
    told = run("replay", "a.json", "--app", "shop:app", f"--hash-seed={seeds}")
    assert told.exit_code == 2
    assert "--hash-seed" in told.stderr
