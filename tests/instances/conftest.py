"""Tests of several instances on a real PostgreSQL."""

from __future__ import annotations

import pytest

from support.instances import Instances


@pytest.fixture
async def shop(postgres_url: str) -> Instances:
    return Instances(postgres_url)
