"""Apps that are written to a file and imported from there, as a user's are."""

from __future__ import annotations

import importlib.util
import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from awakeables import App
from awakeables.checking.check import check
from awakeables.checking.findings import CheckedCode

HEADER = """\
from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import os
import random
import secrets
import subprocess
import time
import urllib.request
import uuid
from asyncio import gather as both
from datetime import date, datetime, timedelta
from time import monotonic as clock

import anyio
import httpx

import awakeables
from awakeables import App, Context, ObjectContext, Service, TerminalError, VirtualObject

SECOND = timedelta(seconds=1)
service = Service("orders")
"""
FOOTER = """
app = App("shop", services=[service])
"""

_numbers = itertools.count()
"""Each module has a name and a file of its own: Python keeps the lines of files that it has read."""

Checking = Callable[[str], CheckedCode]


@pytest.fixture
def checked_module(tmp_path: Path) -> Checking:
    """Check the `app` of a module with this text."""

    def checked_module(text: str) -> CheckedCode:
        name = f"checked_{next(_numbers)}"
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        app = module.app
        assert isinstance(app, App)
        return check(app)

    return checked_module


@pytest.fixture
def checked(checked_module: Checking) -> Checking:
    """Check the service of a module with this text, after the imports above."""
    return lambda text: checked_module(HEADER + textwrap.dedent(text) + FOOTER)


def rules(found: CheckedCode) -> list[str]:
    return [each.rule for each in found.findings]


def places(found: CheckedCode) -> list[tuple[int, str]]:
    """The findings with their lines, counted from the text that was checked."""
    before = HEADER.count("\n")
    return [(each.line - before, each.rule) for each in found.findings]
