"""`/asyncapi.json` and schemas/asyncapi.yaml say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from awakeables.handlers.service import App
from awakeables.web.describing.asyncapi import SCHEMAS, asyncapi
from unit.web.harness import Web, orders
from unit.web.test_openapi import without_prose

FOLDER = Path(__file__).parents[3] / "schemas"
SHOP = App("shop", services=[orders])


def authored() -> Any:
    return yaml.safe_load((FOLDER / "asyncapi.yaml").read_text())


def of_the_shop() -> Any:
    """What is authored, with the app's name and the files beside it put in."""
    document = json.loads(json.dumps(authored()).replace("{app}", "shop"))
    for channel in document["channels"].values():
        if channel.get("parameters", {}).pop("app", None):
            channel.pop("parameters")
    for part in document["components"]["schemas"].values():
        file = part["schema"].get("$ref")
        if file is not None:
            schema = json.loads((FOLDER / file).read_text())
            definitions = schema.pop("$defs", {})
            text = json.dumps(schema)
            while "#/$defs/" in text:  # definitions may refer to others
                for name, definition in definitions.items():
                    text = text.replace(f'{{"$ref": "#/$defs/{name}"}}', json.dumps(definition))
            part["schema"] = json.loads(text)
    return document


def test_what_is_served_is_what_is_authored() -> None:
    assert without_prose(asyncapi(SHOP, version="1", verdicts=True)) == without_prose(of_the_shop())


def test_the_schemas_of_records_are_those_of_the_files_to_the_letter() -> None:
    files = {json.dumps(json.loads(path.read_text())) for path in FOLDER.glob("*.schema.json")}
    assert {json.dumps(schema) for schema in SCHEMAS.values()} == files


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
    }
    assert document["info"]["title"] == "shop"
    group = document["operations"]["receiveCompletion"]["bindings"]["kafka"]["groupId"]
    assert group["enum"] == ["shop"]


def test_the_verdicts_topic_stands_there_if_they_are_published() -> None:
    silent = asyncapi(SHOP, version="1", verdicts=False)
    telling = asyncapi(SHOP, version="1", verdicts=True)
    assert telling["channels"]["verdicts"]["address"] == SHOP.verdicts_topic
    assert set(telling["operations"]) - set(silent["operations"]) == {"sendVerdict"}
    assert "verdicts" not in silent["channels"]


def test_case_w5_no_schema_that_is_served_refers_into_itself() -> None:
    """A parser looks such a reference up in the whole document: see tests/e2e/test_asyncapi_parser.py."""
    schemas = asyncapi(SHOP, version="1", verdicts=True)["components"]["schemas"]
    assert "$ref" not in json.dumps(schemas)
    assert "$defs" not in json.dumps(schemas)


@pytest.mark.parametrize("document", [authored(), asyncapi(SHOP, version="1", verdicts=False)])
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
    for name, part in asyncapi(SHOP, version="1", verdicts=True)["components"]["schemas"].items():
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
