"""The HTTP interface before a process, made in one place for all tests."""

from __future__ import annotations

from pathlib import Path

from awakeables.testing.bench import Process
from awakeables.testing.loop import SeededEntropy
from awakeables.web.app import WebApp, WebSettings, create_app
from awakeables.web.tokens import Tokens


def new_web_app(
    process: Process, settings: WebSettings | None = None, *, tokens: Path | None = None
) -> WebApp:
    """Put the HTTP interface before a process; everybody is let in unless there is a file of tokens."""
    engine = process.engine
    return create_app(
        process.api,
        settings=settings or WebSettings(),
        entropy=SeededEntropy(),
        metrics=engine.metrics,
        tokens=None if tokens is None else Tokens(tokens, clock=engine.clock, problems=engine.problems),
    )
