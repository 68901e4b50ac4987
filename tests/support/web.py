"""The HTTP interface before an engine, made in one place for all tests."""

from __future__ import annotations

from pathlib import Path

from awakeables.api import Api
from awakeables.engine.engine import Engine
from awakeables.testing.loop import SeededEntropy
from awakeables.web.app import WebApp, WebSettings, create_app
from awakeables.web.tokens import Tokens


def new_web_app(engine: Engine, settings: WebSettings | None = None, *, tokens: Path | None = None) -> WebApp:
    """Put the HTTP interface before an engine; everybody is let in unless there is a file of tokens."""
    return create_app(
        Api(engine),
        settings=settings or WebSettings(),
        entropy=SeededEntropy(),
        metrics=engine.metrics,
        tokens=None if tokens is None else Tokens(tokens, clock=engine.clock, problems=engine.problems),
    )
