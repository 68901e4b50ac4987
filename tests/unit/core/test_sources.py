"""Sources are written and read in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from awakeables.core.sources import (
    SourceKind,
    kafka_position,
    kind_of,
    partition_sources,
    same_source,
    source_of,
)

SERVICE = Path(__file__).parents[3] / "service/awakeables"
HOME = SERVICE / "core/sources.py"


@pytest.mark.parametrize("kind", get_args(SourceKind))
def test_the_kind_is_read_back_whatever_the_identity(kind: SourceKind) -> None:
    for identity in ("", "1", "a:b", "kafka:t:0:1"):
        assert kind_of(source_of(kind, identity)) == kind


def test_a_record_s_position_is_read_back() -> None:
    source = partition_sources("shop.completions_1-a", 3)(17, 1_800_000_000_000)
    assert source == "kafka:shop.completions_1-a:3:17@1800000000000"
    assert kind_of(source) == "kafka"
    assert kafka_position(source) == ("shop.completions_1-a", 3, 17)
    assert kafka_position("kafka:a:b:3:7") == ("a:b", 3, 7), "of an earlier release"
    assert kafka_position(source_of("http", "a:1:2@3")) is None


def test_a_row_of_an_earlier_release_has_the_same_source() -> None:
    source = partition_sources("t", 0)(1, 5)
    assert same_source(source, source)
    assert same_source("kafka:t:0:1", source)
    assert not same_source("kafka:t:0:2", source)
    assert not same_source(partition_sources("t", 0)(1, 6), source)


def texts_of_sources(tree: ast.AST) -> Iterator[int]:
    """Lines with a text that begins with a source's kind and a colon, or whose keyword `source` is a text."""
    starts = tuple(f"{kind}:" for kind in get_args(SourceKind))
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if text.startswith(starts) and not text.startswith("http://"):
                yield node.lineno
            case ast.Call(func=ast.Name(id="Completion"), keywords=keywords):
                for keyword in keywords:
                    if keyword.arg == "source" and isinstance(keyword.value, ast.JoinedStr | ast.Constant):
                        yield node.lineno


def test_no_other_file_writes_or_reads_the_text_of_a_source() -> None:
    assert list(texts_of_sources(ast.parse(HOME.read_text()))), "it is found where it is"
    assert list(texts_of_sources(ast.parse('source.startswith("handler:")')))
    assert list(texts_of_sources(ast.parse("Completion(source=f'{a}')")))
    found = {
        f"{file.relative_to(SERVICE)}:{line}"
        for file in SERVICE.rglob("*.py")
        if file != HOME
        for line in texts_of_sources(ast.parse(file.read_text()))
    }
    assert found == set()
