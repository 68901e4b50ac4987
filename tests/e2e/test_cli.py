"""The command line as a user meets it: its words when something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from awakeables.devbroker import EmbeddedBroker
from awakeables.store.sqlite.schema import migrate
from support.console import EXAMPLES, LOOKS, console

AWAKEABLES = str(Path(sys.executable).parent / "awakeables")
UNKNOWN = "prom_101hf7yat0060rk4csm6mv3ee1s3zhr432"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as a user does: what may end it, and what it may hold."""
    return subprocess.run(
        [AWAKEABLES, *words],
        cwd=EXAMPLES,
        env=os.environ | LOOKS | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(
    *words: str, until: str, store: str = "memory:", **environment: str
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [AWAKEABLES, *words],
        cwd=EXAMPLES,
        env=os.environ | {"AWAKEABLES_STORE": store} | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if until in line:
                break
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    words = ("dev", "shop:app", "--worker", "shop:packer", "--port", str(port))
    with started(*words, until="awakeables resolve"):
        yield f"http://127.0.0.1:{port}"


def test_the_installed_command_has_help() -> None:
    result = run("serve", "--help")
    assert result.returncode == 0
    assert "Usage: awakeables serve [OPTIONS]" in result.stdout


def test_the_installed_command_reports_errors_in_one_line_without_a_stack() -> None:
    result = run("serve", "nowhere:app")
    assert result.returncode == 1
    assert "no module 'nowhere'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_and_a_file_in_use_are_named(tmp_path: Path) -> None:
    port, store = free_port(), str(tmp_path / "a.db")
    common = ("serve", "shop:app", "--kafka", "127.0.0.1:9")
    with started(*common, "--store", store, "--port", str(port), until="service_started"):
        again = run(*common, "--store", store, "--port", str(free_port()))
        assert again.returncode == 1
        assert "is held by process" in again.stderr
        other = run(*common, "--store", str(tmp_path / "b.db"), "--port", str(port))
        assert other.returncode == 1
        assert f"port {port}" in other.stderr


def test_a_store_of_another_app_is_named_with_the_way_out(tmp_path: Path) -> None:
    store = tmp_path / "a.db"
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        migrate(connection, store, "bank")
    told = run("serve", "shop:app", "--kafka", "127.0.0.1:9", "--store", str(store), "--port", "0")
    assert told.returncode == 1
    assert f"{store} is the store of the app 'bank', not of 'shop'" in " ".join(told.stderr.split())


def test_without_kafka_the_service_is_up_says_so_and_keeps_what_it_is_given(tmp_path: Path) -> None:
    port = free_port()
    common = ("serve", "shop:app", "--kafka", "127.0.0.1:9", "--store", str(tmp_path / "a.db"))
    with started(*common, "--port", str(port), until="service_started") as process:
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 10
        while "degraded" not in (ready := httpx.get(f"{base}/health/ready")).json():
            assert time.monotonic() < deadline, "it does not say that there is no broker"
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        assert "broker" in ready.json()["degraded"]
        assert httpx.get(f"{base}/health/live").status_code == 200
        told = httpx.get(f"{base}/metrics").text
        assert re.search(
            r'^awakeables_build_info\{app="shop",python="3[^"]+",version="[^"]+"\} 1', told, re.M
        )
        sent = httpx.post(f"{base}/orders/fulfil/send", json={"id": "o-1"})
        assert sent.status_code == 202
        listed = console("list", "--url", base, "--json")
        assert [item["state"] for item in json.loads(listed.stdout)["items"]] == ["pending"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_case_o14_a_service_goes_on_from_a_back_up_that_was_made_while_it_ran(tmp_path: Path) -> None:
    store, copy = tmp_path / "a.db", tmp_path / "back-up.db"
    common = ("serve", "shop:app", "--kafka", "127.0.0.1:9")
    base = f"http://127.0.0.1:{(port := free_port())}"
    with started(*common, "--store", str(store), "--port", str(port), until="service_started") as process:
        httpx.post(f"{base}/orders/fulfil/send", json={"id": "o-1"}).raise_for_status()
        deadline = time.monotonic() + 10
        while not (rows := httpx.get(f"{base}/awakeables").json()["items"]):
            assert time.monotonic() < deadline, "the handler does not begin to wait"
        [waits] = rows
        made = console("backup", str(copy), "--store", str(store), "--json")
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout) == {
            "file": str(copy),
            "bytes": copy.stat().st_size,
            "schema": json.loads(made.stdout)["schema"],
            "app": "shop",
        }
        again = console("backup", str(copy), "--store", str(store))
        assert (again.returncode, "never replaces a file" in " ".join(again.stderr.split())) == (1, True)
        process.kill()
    copy.rename(store)
    for log in (tmp_path / "a.db-wal", tmp_path / "a.db-shm"):
        log.unlink(missing_ok=True)
    assert console("backup", str(copy), "--store", str(store)).returncode == 0, "nobody has it open"
    # Without Kafka it can't drain.
    drain = {"AWAKEABLES_DRAIN_TIMEOUT": "0"}
    with started(*common, "--store", str(store), "--port", str(port), until="service_started", **drain):
        resolved = httpx.post(f"{base}/awakeables/{waits['id']}/resolve", json={"tracking": "p-1"})
        assert resolved.status_code == 200, resolved.text
        ended = httpx.get(f"{base}/invocations/{waits['invocation']}/attach", timeout=15)
        assert ended.status_code == 200, ended.text


def test_dev_serves_an_app_with_its_worker(url: str) -> None:
    answer = httpx.post(f"{url}/orders/fulfil", json={"id": "o-1"}, timeout=30)
    assert answer.status_code == 200
    assert answer.json() == {"order": "o-1", "parcel": {"tracking": "parcel-of-o-1"}}


def test_lists_and_shows(url: str) -> None:
    httpx.post(f"{url}/orders/fulfil", json={"id": "o-2"}, timeout=30)
    rows = console("list", "--url", url)
    [first, *_] = re.findall(r"prom_1\w+", rows.stdout)
    shown = json.loads(console("show", first, "--url", url).stdout)
    assert shown["state"] == "resolved"
    invocations = json.loads(
        console("list", "invocations", "--json", "--state", "completed", "--url", url).stdout
    )
    shown = json.loads(console("show", invocations["items"][0]["id"], "--url", url).stdout)
    assert shown["status"] == "completed"
    assert [entry["entry"]["k"] for entry in shown["journal"]] == ["input", "awakeable", "publish", "outcome"]


def test_a_journal_is_stored_and_replayed(url: str, tmp_path: Path) -> None:
    httpx.post(f"{url}/orders/fulfil", json={"id": "o-4"}, timeout=30).raise_for_status()
    listed = console("list", "invocations", "--json", "--state", "completed", "--url", url)
    invocation_id = json.loads(listed.stdout)["items"][0]["id"]
    journal = tmp_path / "j.json"
    journal.write_text(run("show", invocation_id, "--journal", "--url", url).stdout)
    told = run("replay", str(journal), "--app", "shop:app")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.splitlines() == [
        f"ok           {journal}  orders/fulfil  {invocation_id}",
        "1 journal replayed with the hash seeds 0, 1, 2: 1 ok",
    ]
    changed = (
        (EXAMPLES / "shop.py")
        .read_text()
        .replace(
            "    packed = ctx.awakeable(", "    await ctx.run('check', print)\n    packed = ctx.awakeable("
        )
    )
    (tmp_path / "changed.py").write_text(changed)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    told = run("replay", str(tmp_path), "--app", "changed:app", "--hash-seed", "0", PYTHONPATH=path)
    assert told.returncode == 1
    assert "+       the handler asks for: run 'check'" in told.stdout


def test_a_verdict_that_is_not_a_success_is_printed_and_exits_with_1(url: str) -> None:
    httpx.post(f"{url}/orders/fulfil", json={"id": "o-3"}, timeout=30)
    [first, *_] = re.findall(r"prom_1\w+", console("list", "--url", url).stdout)
    again = console("resolve", first, '{"tracking": "parcel-of-o-3"}', "--url", url)
    assert (again.returncode, again.stdout.split()[0]) == (0, "duplicate")
    other = console("reject", first, "changed my mind", "--url", url)
    assert other.returncode == 1
    assert other.stdout.startswith("conflict")
    unknown = console("resolve", UNKNOWN, "--url", url)
    assert unknown.returncode == 1
    mistyped = console("resolve", first[:-1] + ("0" if first[-1] != "0" else "1"), "--url", url)
    assert mistyped.returncode == 1
    assert "mistyped" in mistyped.stderr


BLOCKED = """
import time
from awakeables import App, Context, Service

service = Service("blocked")

@service.handler()
async def for_ever(ctx: Context) -> None:
    await ctx.run("block", time.sleep, 1000)

app = App("blocked", services=[service])
"""


def test_sigterm_does_not_wait_for_a_blocked_thread_past_the_drain(tmp_path: Path) -> None:
    (tmp_path / "blocked.py").write_text(BLOCKED)
    port = free_port()
    process = subprocess.Popen(
        [AWAKEABLES, "serve", "blocked:app", "--kafka", "127.0.0.1:9", "--port", str(port)],
        cwd=tmp_path,
        env=os.environ | {"AWAKEABLES_DRAIN_TIMEOUT": "1", "AWAKEABLES_COMPLETIONS_PARTITIONS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "service_started" in line:
            break
    else:
        pytest.fail("it did not start")
    assert httpx.post(f"http://127.0.0.1:{port}/blocked/for_ever/send").status_code == 202
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "drain_incomplete" in told


def test_hard_case_17_dev_begins_empty_with_each_embedded_broker() -> None:
    """The broker's log dies with it: a store that remembered its offsets would wait for ever."""
    for order in ("o-1", "o-2"):
        port = free_port()
        base = f"http://127.0.0.1:{port}"
        words = ("dev", "shop:app", "--worker", "shop:packer", "--port", str(port))
        with started(*words, until="awakeables resolve"):
            assert httpx.get(f"{base}/invocations").json()["items"] == []
            assert httpx.post(f"{base}/orders/fulfil", json={"id": order}, timeout=30).status_code == 200


async def test_hard_case_17_dev_with_a_kafka_of_its_own_keeps_the_store(tmp_path: Path) -> None:
    async with EmbeddedBroker() as broker:
        for topic in ("shop.completions", "shop.completions.dlq", "pack-requests"):
            await broker.create_topic(topic, partitions=1)
        for known in (0, 1):
            port = free_port()
            base = f"http://127.0.0.1:{port}"
            words = ("dev", "shop:app", "--worker", "shop:packer", "--port", str(port))
            with started(
                *words, "--kafka", broker.bootstrap, until="awakeables resolve", store=str(tmp_path / "a.db")
            ):
                async with httpx.AsyncClient(timeout=30) as client:
                    assert len((await client.get(f"{base}/invocations")).json()["items"]) == known
                    answer = await client.post(f"{base}/orders/fulfil", json={"id": "o-1"})
                    assert answer.status_code == 200


def test_dev_creates_the_task_topics_that_are_named() -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with started("dev", "shop:app", "--task-topic", "pack-requests", "--port", str(port), until="resolve"):
        httpx.post(f"{base}/orders/fulfil/send", json={"id": "o-5"}, timeout=30).raise_for_status()
        published = 'awakeables_publishes_total{result="published"} 1.0'
        deadline = time.monotonic() + 10
        while published not in (told := httpx.get(f"{base}/metrics").text):
            assert time.monotonic() < deadline, told


def test_case_u2_dev_without_a_worker_says_what_to_do_once_and_ends_at_once() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with started("dev", "shop:app", "--port", str(port), until="no worker runs here") as process:
        httpx.post(f"{url}/orders/fulfil/send", json={"id": "o-5"}, timeout=30).raise_for_status()
        deadline = time.monotonic() + 10
        while "there is no topic 'pack-requests'" not in (
            told := console("outbox", "list", "--state", "unsent", "--url", url, COLUMNS="400").stdout
        ):
            assert time.monotonic() < deadline, told
        process.send_signal(signal.SIGTERM)
        # A drain that waits for the topic waits for AWAKEABLES_DRAIN_TIMEOUT, 30 s.
        _, said = process.communicate(timeout=20)
    assert "--worker MODULE:WORKER" in said
    assert "--task-topic pack-requests" in said
    assert "topics create" not in said
    assert process.returncode == 0


def test_with_a_kafka_of_its_own_dev_makes_no_task_topic_and_says_what_does(tmp_path: Path) -> None:
    words = ("dev", "shop:app", "--task-topic", "pack-requests", "--kafka", "127.0.0.1:9")
    told = run(*words, AWAKEABLES_STORE=str(tmp_path))  # a folder, so that it ends
    assert told.returncode == 1
    assert "on 127.0.0.1:9, create the topics with `awakeables topics create shop:app " in told.stderr


def test_an_operator_repairs_by_command_what_went_wrong(url: str) -> None:
    called = httpx.post(f"{url}/orders/fulfil", json={"id": "o-4"}, timeout=30)
    told = console("cancel", called.headers["invocation-id"], "--url", url)
    assert told.returncode == 1
    assert "has ended; there is nothing to cancel" in told.stderr
    offsets = json.loads(console("offsets", "show", "--json", "--url", url).stdout)["items"]
    assert {row["topic"] for row in offsets} == {"shop.completions"}
    skipped = console("offsets", "skip", "0", "--yes", "--url", url)
    assert skipped.returncode == 1
    assert "stuck" in skipped.stderr
    assert console("dead-letters", "list", "--url", url).stderr == "no dead letters\n"
    assert console("outbox", "list", "--url", url).stderr == "no failed records\n"
