"""docs/vocabulary.md and docs/coming-from.md have the names that there are."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import awakeables
from awakeables import testing
from awakeables.cli.main import cli
from awakeables.handlers.saga import Saga
from awakeables.settings import PREFIX, Settings

DOCS = Path(__file__).parents[3] / "docs"
VOCABULARY = (DOCS / "vocabulary.md").read_text()
COMING_FROM = (DOCS / "coming-from.md").read_text()
CODE = re.compile(r"`([^`]+)`")

PUBLIC = {
    **{name: getattr(awakeables, name) for name in awakeables.__all__},
    **{name: getattr(testing, name) for name in testing.__all__},
}
CLASSES = [each for each in PUBLIC.values() if inspect.isclass(each)]
OWNERS: dict[str, type] = {
    "ctx": awakeables.ObjectContext,
    "ctx.request": awakeables.Request,
    "saga": Saga,
    "awakeable": awakeables.Awakeable,
    "promise": awakeables.DurablePromise,
    "worker": awakeables.Worker,
    "task": awakeables.Task,
    "remote": awakeables.RemoteService,
    "": awakeables.Durable,
}
"""What stands before the dot of a name in the vocabulary."""

NOT_FOR_HANDLERS = {"decode_input"}
"""What the context has for the engine."""

PLACEHOLDERS = {"Type", "Item", "True"}
"""What our code in the comparison names beside our API."""


def first_cells(text: str) -> list[str]:
    """The first cells of the rows of all tables."""
    cells = re.findall(r"^\| (.*?) \| ", text, re.MULTILINE)
    return [cell for cell in cells if cell not in ("name", "word")]


def documented() -> list[str]:
    """The names of the vocabulary, without their arguments."""
    return [re.sub(r"\(.*\)$", "", name) for cell in first_cells(VOCABULARY) for name in CODE.findall(cell)]


def public(owner: type) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}


def parameters() -> Iterator[str]:
    """The parameters of all that is public."""
    for each in PUBLIC.values():
        callables: list[Callable[..., Any]] = [each] if callable(each) else []
        if inspect.isclass(each):
            callables += [member for name in public(each) if callable(member := getattr(each, name))]
        for function in callables:
            with suppress(ValueError):  # some built-in ones have no signature
                yield from inspect.signature(function).parameters


PARAMETERS = set(parameters())


def is_there(name: str) -> bool:
    """Whether a name of the vocabulary is one of the API."""
    if name.endswith("="):
        return name[:-1] in PARAMETERS
    owner, dot, member = name.removeprefix("@").rpartition(".")
    if not dot:
        return name in PUBLIC
    return owner in OWNERS and member in public(OWNERS[owner])


def test_everything_public_has_a_row_of_its_own_in_the_vocabulary() -> None:
    named = documented()
    assert sorted(PUBLIC.keys() - set(named)) == []
    assert sorted({name for name in named if named.count(name) > 1}) == []
    assert [cell for cell in first_cells(VOCABULARY) if len(CODE.findall(cell)) > 1] == []


def test_everything_that_a_handler_can_call_has_a_row_in_the_vocabulary() -> None:
    wanted = {f"ctx.{name}" for name in public(awakeables.ObjectContext) - NOT_FOR_HANDLERS}
    assert sorted(wanted - set(documented())) == []


def test_the_vocabulary_names_nothing_that_there_is_not() -> None:
    assert [name for name in documented() if not is_there(name)] == []


@pytest.mark.parametrize(
    "name", ["Promises", "ctx.gatherall", "heartbeat_time_out=", "tasks.heartbeat", ".end"]
)
def test_a_name_that_there_is_not_is_found(name: str) -> None:
    assert not is_there(name)


def ours() -> list[str]:
    """The code of docs/coming-from.md that is ours: of the last column, and of what follows the table."""
    table, _, differences = COMING_FROM.partition("\nWhat is different:\n")
    rows = re.findall(r"^\| .* \| (.*) \|$", table, re.MULTILINE)
    assert rows[0] == "here"
    assert len(rows) > 50
    return [code for text in [*rows, differences] for code in CODE.findall(text)]


@cache
def commands_and_options() -> tuple[set[str], set[str]]:
    """The commands of `awakeables`, and the options of all of them."""
    groups: dict[str, Any] = getattr(get_command(cli), "commands")  # noqa: B009 - a group's, that typer doesn't type
    commands = [
        *groups.values(),
        *(sub for each in groups.values() for sub in getattr(each, "commands", {}).values()),
    ]
    options = {option for each in commands for parameter in each.params for option in parameter.opts}
    return set(groups), options


def unknown(code: str) -> list[str]:
    """The names in a piece of our code that are not ours."""
    code = re.sub(r'"[^"]*"', '""', code)
    commands, options = commands_and_options()
    attributes = {name for each in CLASSES for name in public(each)} | public(Saga)
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known: list[tuple[str, set[str]]] = [
        (r"^awakeables ([a-z]+)", commands),
        (r"(?<!\S)(--[a-z-]+)", options),
        (rf"\b({PREFIX}[A-Z_]+)\b", settings),
        (r"\bctx\.(\w+)", public(awakeables.ObjectContext)),
        (r"\.(?!testing\b)([a-z_]+)", attributes | set(testing.__all__)),
        (r"\b([a-z_]+)=", PARAMETERS),
        (r"(?<![A-Z/.])\b([A-Z][a-z]+(?:[A-Z][a-z]+)*)\b", set(PUBLIC) | PLACEHOLDERS),
    ]
    return [name for pattern, names in known for name in re.findall(pattern, code) if name not in names]


def test_the_comparison_names_nothing_of_ours_that_there_is_not() -> None:
    assert {code: names for code in ours() if (names := unknown(code))} == {}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("ctx.waitfor(…)", "waitfor"),
        ("@orders.handlers()", "handlers"),
        ("App(codecs=KeyRing(…))", "codecs"),
        ("KeyChain(…)", "KeyChain"),
        ("awakeables replays journals/ --app shop:app", "replays"),
        ("awakeables replay journals/ --application shop:app", "--application"),
        ("AWAKEABLES_RETAIN", "AWAKEABLES_RETAIN"),
    ],
)
def test_a_name_of_ours_that_there_is_not_is_found_in_code(code: str, name: str) -> None:
    assert name in unknown(code)
