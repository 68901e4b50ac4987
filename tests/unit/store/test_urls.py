"""A store that is the URL of a database: what is accepted, and that its password is shown nowhere."""

from __future__ import annotations

import sys

import pytest

from awakeables import App, Service
from awakeables.errors import MissingDependency
from awakeables.runtime import _postgres_store
from awakeables.settings import SettingsRefused, load_settings
from awakeables.store.urls import checked_store, is_postgres, shown_store


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://shop@db/shop", "postgresql://shop@db/shop"),
        ("postgres://shop:secret@db:5432/shop", "postgres://shop@db:5432/shop"),
        (
            "postgresql://s%40p:se%3Acr%2Fet@[::1]:5432/shop?password=secret",
            "postgresql://s@p@[::1]:5432/shop",
        ),
        ("postgresql://shop:secret@one:1,two:2/shop", "postgresql://shop@one:1,two:2/shop"),
        ("postgresql:///shop?host=/run/postgresql", "postgresql:///shop"),
        ("postgresql://db/shop", "postgresql://db/shop"),
        ("awakeables.db", "awakeables.db"),
        ("memory:", "memory:"),
    ],
)
def test_a_store_is_shown_without_its_password(url: str, shown: str) -> None:
    assert checked_store(url) == url
    assert shown_store(url) == shown
    assert is_postgres(url) == url.startswith("postgres")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://shop:se@cret@db/shop",
        "postgresql://shop:se:cret@db/shop",
        "postgresql://shop:se/cret@db/shop",
        "postgresql://shop:se?cret@db/shop",
        "postgresql://shop:se#cret@db/shop",
        "postgresql://shop:secret@db",
        "postgresql://shop:secret@db:port/shop",
        "postgresql://shop:[secret@db/shop",
    ],
)
def test_a_password_that_is_not_encoded_is_refused_without_showing_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWAKEABLES_STORE", url)
    with pytest.raises(SettingsRefused, match="AWAKEABLES_STORE: not postgresql://") as refused:
        load_settings()
    assert "cret" not in str(refused.value)


def test_a_driver_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.startswith("awakeables.store.postgres"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(MissingDependency, match=r"extra `postgres`: pip install 'awakeables\[postgres\]'"):
        _postgres_store("postgresql://db/shop", App("shop", services=[Service("orders")]), 1)
