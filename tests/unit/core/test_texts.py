"""Texts of others, on one line and on a terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awakeables.core.texts import MAX_VALUE_CHARACTERS, excerpt, visible, visible_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Łódź, 東京, لا, 🙂, C:\\temp", "Łódź, 東京, لا, 🙂, C:\\temp"),
        ("a\tb\r\nc", r"a\tb\r\nc"),
        ("\x1b]0;title\x07", r"\u001b]0;title\u0007"),
        ("\x7f\x80\x9b1m", r"\u007f\u0080\u009b1m"),
        ("\u202egnp\u202c \u2066x\u2069 \u200f\u061c", r"\u202egnp\u202c \u2066x\u2069 \u200f\u061c"),
        ("\ud800 \u2028 \u2029", r"\ud800 \u2028 \u2029"),
    ],
)
def test_case_o11_what_a_terminal_would_obey_is_shown_as_json_writes_it(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_shown_is_one_line_that_can_be_written(text: str) -> None:
    assert len(visible(text).splitlines()) <= 1
    assert visible(text).encode().decode() == visible(text) == visible(visible(text))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_json_text_that_is_shown_means_the_same(text: str) -> None:
    assert json.loads(visible_lines(json.dumps({"a": text}, ensure_ascii=False, indent=2))) == {"a": text}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", "'a'"),
        ("", "''"),
        ("it's\n\x1b[2J", '"it\'s\\n\\x1b[2J"'),
        ("x" * 80, f"'{'x' * 80}'"),
        ("x" * 10**6, f"'{'x' * 79}…'"),
        (7, "7"),
        ([1] * 100, f"[{'1, ' * 26}…"),
    ],
)
def test_a_value_in_a_message_is_quoted_and_short(value: object, shown: str) -> None:
    assert excerpt(value) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_an_excerpt_is_one_line_and_bounded_whatever_the_text(text: str) -> None:
    assert len(excerpt(text).splitlines()) == 1
    assert len(excerpt(text)) <= 10 * MAX_VALUE_CHARACTERS + 2
