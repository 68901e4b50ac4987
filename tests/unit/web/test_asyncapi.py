"""`/asyncapi.json` is schemas/asyncapi.json with the app's topics and the schemas of the records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from awakeables.handlers.service import App
from awakeables.web.describing.asyncapi import asyncapi
from awakeables.web.describing.contract import contract
from awakeables.wire.completion_events import TYPES
from unit.web.harness import Web, orders
from unit.wire.contract import NAMES, examples

FOLDER = Path(__file__).parents[3] / "schemas"
SHOP = App("shop", services=[orders])


def authored() -> Any:
    return contract("asyncapi.json")


def served() -> Any:
    return asyncapi(SHOP, version="1", verdicts=True)


def test_what_is_served_is_what_is_authored_but_for_the_app_and_the_records() -> None:
    expected, document = authored(), served()
    del expected["info"], document["info"]
    for part, told in zip(
        expected["components"]["schemas"].values(), document["components"]["schemas"].values(), strict=True
    ):
        if "$ref" in part["schema"]:
            del part["schema"], told["schema"]
    for channel in expected["channels"].values():
        if "app" in channel.get("parameters", ()):
            del channel["parameters"]
    assert document == json.loads(json.dumps(expected).replace("{app}", "shop"))


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_of_a_record_is_served_whole(name: str) -> None:
    """It takes and refuses what the file takes and refuses."""
    file = contract(f"{name}.schema.json")
    [told] = [
        part["schema"]
        for part in served()["components"]["schemas"].values()
        if part["schema"].get("$id") == file["$id"]
    ]
    ours, theirs = (jsonschema_rs.Draft202012Validator(s, validate_formats=True) for s in (file, told))
    records = [json.loads(given.values[0].read_bytes()) for given in examples("valid", name)]
    assert all(theirs.is_valid(record) for record in records)
    for path in (FOLDER / "examples/invalid" / name).glob("*.json"):
        try:
            record = json.loads(path.read_bytes())
        except ValueError:
            continue
        assert theirs.is_valid(record) == ours.is_valid(record), path.name


def test_the_types_of_completion_events_are_those_that_are_read() -> None:
    headers = authored()["components"]["schemas"]["completionEventHeaders"]["schema"]
    assert headers["properties"]["ce_type"]["enum"] == list(TYPES)


def test_every_schema_of_an_awakeable_s_id_has_one_pattern() -> None:
    texts = [(FOLDER / f"{name}.schema.json").read_text() for name in NAMES]
    texts.append((FOLDER / "asyncapi.json").read_text())
    patterns = [re.findall(r'"pattern": "(\^prom[^"]+)"', text) for text in texts]
    assert set().union(*patterns) == {"^prom_1[0-9a-hjkmnp-tv-z]{33}$"}


async def test_the_apps_topics_are_served(web: Web) -> None:
    response = await web.client.get("/asyncapi.json")
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    topics = {name: channel["address"] for name, channel in document["channels"].items()}
    assert topics == {
        "tasks": "{topic}",
        "completions": SHOP.completions_topic,
        "replies": None,
        "deadLetters": SHOP.dead_letter_topic,
        "taskDeadLetters": "{topic}.dlq",
        "revocations": "shop.revocations",
    }
    assert document["info"]["title"] == "shop"
    group = document["operations"]["receiveCompletion"]["bindings"]["kafka"]["groupId"]
    assert group["enum"] == ["shop"]


def test_the_verdicts_topic_is_there_if_they_are_published() -> None:
    silent = asyncapi(SHOP, version="1", verdicts=False)
    telling = served()
    assert telling["channels"]["verdicts"]["address"] == SHOP.verdicts_topic
    assert set(telling["operations"]) - set(silent["operations"]) == {"sendVerdict"}
    assert "verdicts" not in silent["channels"]


def test_case_w5_no_schema_that_is_served_refers_into_itself() -> None:
    """A parser looks such a reference up in the whole document: see tests/e2e/test_asyncapi_parser.py."""
    schemas = served()["components"]["schemas"]
    assert "$ref" not in json.dumps(schemas)
    assert "$defs" not in json.dumps(schemas)


@pytest.mark.parametrize("document", [authored(), served(), asyncapi(SHOP, version="1", verdicts=False)])
def test_whatever_is_referred_to_is_there(document: Any) -> None:
    for reference in set(re.findall(r"'\$ref': '(#/[^']+)'", str(document))):
        found = document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def test_parameters_are_those_of_the_address_and_messages_those_of_the_channel() -> None:
    document = authored()
    for channel in document["channels"].values():
        assert set(channel.get("parameters", {})) == set(re.findall(r"\{(\w+)\}", channel["address"] or ""))
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        for message in operation.get("messages", ()):
            assert message["$ref"].startswith(f"{channel}/messages/")


def test_every_schema_is_one() -> None:
    for name, part in served()["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(part["schema"]), name


def test_an_answer_finds_its_topic_and_its_awakeable_where_the_document_says() -> None:
    """By the examples: the places that it names are there."""
    document = authored()
    task = json.loads((FOLDER / "examples/valid/task/full.json").read_text())
    event = json.loads((FOLDER / "examples/valid/task-cloudevent/full.json").read_text())
    for operation, record in (("sendTask", task), ("sendTaskEvent", event)):
        location = document["operations"][operation]["reply"]["address"]["location"]
        assert record[location.removeprefix("$message.payload#/")] == "shop.completions"
    ids = document["components"]["correlationIds"]
    assert task[ids["byField"]["location"].rpartition("/")[2]].startswith("prom_1")
    assert event[ids["bySubject"]["location"].rpartition("/")[2]].startswith("prom_1")
