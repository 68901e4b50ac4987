"""docs/security.md names what there is."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.exceptions import InvalidTag

from awakeables import App, PayloadCodec, Service
from awakeables.errors import KeyMissing, StoreUnavailable
from awakeables.settings import PREFIX, Settings
from awakeables.telemetry.vocabulary import VOCABULARY
from awakeables.web.tokenfile import SCOPES

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "security.md").read_text()
THREATS = TEXT.partition("## Threat model\n")[2].partition("\n## ")[0]
ACL = re.compile(r"^acl User:(\w+)\s+--operation (\w+)\s+--(topic|group) (\S+)$", re.MULTILINE)


def executed() -> dict[str, Any]:
    """The names of the document's code, which is one module."""
    made: dict[str, Any] = {"__name__": "shop"}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile("\n".join(blocks), "security.md", "exec"), made)
    return made


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
    app = executed()["app"]
    assert repr(app.codec) == "KeyRing(current='2026-11', keys=['2026-10', '2026-11'], lost=[])"


class KeyService:
    """Has the keys, and counts how often it is asked for one."""

    def __init__(self) -> None:
        self.keys = {"2026-10": b"a" * 32, "2026-11": b"b" * 32}
        self.asked: list[str] = []
        self.is_down = False

    def fetch(self, key_id: str) -> bytes:
        self.asked.append(key_id)
        if self.is_down:
            raise ConnectionError("no answer")
        return self.keys[key_id]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> KeyService:
    monkeypatch.setenv("SHOP_KEYS", f"2026-11:{b64encode(b'b' * 32).decode()}")
    return KeyService()


def test_the_codec_of_the_document_opens_what_it_has_sealed_in_its_place_alone(service: KeyService) -> None:
    made = executed()["ManagedKeys"]
    old: PayloadCodec = made(service.fetch, current="2026-10")
    codec: PayloadCodec = made(service.fetch, current="2026-11")
    assert App("shop", services=[Service("orders")], codec=codec).codec is codec
    sealed = old.seal(b"a book", bound_to="state.value:c-7")
    assert b"book" not in sealed
    assert codec.key_id == "2026-11"
    assert codec.open(sealed, key_id="2026-10", bound_to="state.value:c-7") == b"a book"
    with pytest.raises(InvalidTag):
        codec.open(sealed, key_id="2026-10", bound_to="state.value:c-8")
    with pytest.raises(InvalidTag):
        codec.open(sealed, key_id="2026-11", bound_to="state.value:c-7")


def test_the_codec_of_the_document_asks_once_for_a_key_and_again_after_an_error(service: KeyService) -> None:
    codec: PayloadCodec = executed()["ManagedKeys"](service.fetch, current="2026-11")
    old: PayloadCodec = executed()["ManagedKeys"](service.fetch, current="2026-10")
    sealed = [old.seal(content, bound_to="there") for content in (b"1", b"2")]
    service.asked.clear()
    with pytest.raises(KeyMissing, match="2026-09"):
        codec.open(sealed[0], key_id="2026-09", bound_to="there")
    service.is_down = True
    with pytest.raises(StoreUnavailable):
        codec.open(sealed[0], key_id="2026-10", bound_to="there")
    service.is_down = False
    assert [codec.open(each, key_id="2026-10", bound_to="there") for each in sealed] == [b"1", b"2"]
    assert service.asked == ["2026-09", "2026-10", "2026-10"]


def test_every_scope_is_explained() -> None:
    explained = set(re.findall(r"^\| `([a-z]+)` \|", TEXT, re.MULTILINE))
    assert explained >= set(SCOPES)
