"""docs/security.md names what there is."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml

from awakeables.settings import PREFIX, Settings
from awakeables.telemetry.vocabulary import VOCABULARY
from awakeables.web.tokenfile import SCOPES

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "security.md").read_text()
THREATS = TEXT.partition("## Threat model\n")[2].partition("\n## ")[0]
ACL = re.compile(r"^acl User:(\w+)\s+--operation (\w+)\s+--(topic|group) (\S+)$", re.MULTILINE)


def test_every_setting_that_the_document_names_is_there() -> None:
    named = set(re.findall(rf"\b{PREFIX}([A-Z_]+[A-Z])\b", TEXT))
    assert len(named) > 10
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


def test_the_threat_model_names_metrics_alarms_and_scopes_that_there_are() -> None:
    samples = {sample for metric in VOCABULARY for sample in metric.samples}
    metrics = set(re.findall(r"`(awakeables_\w+)`", THREATS))
    assert metrics
    assert metrics <= samples
    rules = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"][0]["rules"]
    alarms = set(re.findall(r"`(Awakeables[A-Z]\w+)`", THREATS))
    assert alarms
    assert alarms <= {rule["alert"] for rule in rules}
    scopes = set(re.findall(r"a token with `(\w+)`", THREATS))
    assert scopes
    assert scopes <= set(SCOPES)


def test_case_o15_the_acls_let_nobody_but_the_service_give_tasks_and_nobody_but_the_worker_answer() -> None:
    acls = ACL.findall(THREATS)
    assert len(acls) == THREATS.count("\nacl ")
    assert all("*" not in name for *_, name in acls)
    topics = [(operation, name, user) for user, operation, kind, name in acls if kind == "topic"]
    assert sorted(topics) == [
        ("Read", "pack-requests", "packer"),
        ("Read", "shop.completions", "shop"),
        ("Write", "pack-requests", "shop"),
        ("Write", "pack-requests.dlq", "packer"),
        ("Write", "shop.completions", "packer"),
        ("Write", "shop.completions.dlq", "shop"),
        ("Write", "shop.verdicts", "shop"),
    ]


def test_the_code_of_the_document_makes_an_app_that_seals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "SHOP_KEYS", f"2026-10:{b64encode(b'a' * 32).decode()} 2026-11:{b64encode(b'b' * 32).decode()}"
    )
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    made: dict[str, Any] = {"__name__": "shop"}
    exec(compile(block, "security.md", "exec"), made)
    assert repr(made["app"].codec) == "KeyRing(current='2026-11', keys=['2026-10', '2026-11'], lost=[])"


def test_every_scope_is_explained() -> None:
    explained = set(re.findall(r"^\| `([a-z]+)` \|", TEXT, re.MULTILINE))
    assert explained >= set(SCOPES)
