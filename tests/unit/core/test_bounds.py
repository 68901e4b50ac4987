"""The bound on JSON values: never short of the truth, not fooled by strings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awakeables.core.bounds import has_more_json_values

TEXTS = st.text(st.sampled_from('a,[{"\\:é'))
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=30,
)


def counted(value: Any) -> int:
    """The values of a value, an empty array or object as two."""
    match value:
        case dict() | list():
            members = list(value.values() if isinstance(value, dict) else value)
            return 1 + max(1, sum(map(counted, members)))
        case _:
            return 1


@given(VALUES, st.booleans())
def test_case_o3_the_values_of_a_text_are_counted_whatever_its_strings_hold(
    value: Any, escaped: bool
) -> None:
    text = json.dumps(value, ensure_ascii=escaped).encode()
    count = counted(value)
    assert not has_more_json_values(text, count)
    assert has_more_json_values(text, count - 1)


@given(st.binary(), st.integers(1, 5))
def test_any_bytes_are_answered(content: bytes, most: int) -> None:
    assert has_more_json_values(content, most) in (True, False)


@pytest.mark.parametrize(
    ("unit", "too_many"),
    [
        (b"[],", True),
        (b'"",', True),
        (b'",",', True),
        (b'{"a":0},', True),
        (b'"' + b",[{" * 1000 + b'",', False),
        (b'"' + b'\\"' * 1000 + b",[{" * 1000 + b'\\\\",', False),
    ],
)
def test_case_o3_a_few_million_values_are_refused_and_long_strings_are_not(
    unit: bytes, too_many: bool
) -> None:
    text = b"[" + unit * (4_000_000 // len(unit)) + b"0]"
    assert has_more_json_values(text, 10_000) == too_many
