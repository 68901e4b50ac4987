"""What the check of an app's source finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

RuleName: TypeAlias = Literal[
    "clock",
    "chance",
    "sleep",
    "asyncio",
    "set-order",
    "swallow",
    "ctx-in-action",
    "unawaited",
    "blocking-io",
    "heartbeat",
    "blocked-key",
]


@dataclass(frozen=True, slots=True, order=True)
class CodeFinding:
    """A place in the source that a replay does not repeat, or that loses work.

    Attributes:
        path: The source file.
        line: Its line, from 1.
        rule: What was violated.
        text: What the code does there, and what to write instead.
    """

    path: str
    line: int
    rule: RuleName
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCode:
    """The result of checking an app.

    Attributes:
        handlers: How many handlers were checked.
        findings: By file and line.
        without_source: The handlers that were not checked, as `service/handler`: their source was not found.
    """

    handlers: int
    findings: list[CodeFinding]
    without_source: list[str]
