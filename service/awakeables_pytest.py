"""What awakeables adds to pytest: the fixtures `harness` and `async_harness`, and the marker `awakeables`.

It stands beside the package, because pytest imports it in each of its runs: the package itself is imported
only by tests that use the fixtures.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from awakeables import App
    from awakeables.testing import AsyncHarness, Harness

OPTIONS = ("suspend", "thorough", "retry", "seed")

HARNESS = pytest.StashKey["Harness"]()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "awakeables(suspend=True, thorough=False, retry=…, seed=0): how the fixtures `harness` and "
        "`async_harness` serve the app",
    )


@pytest.fixture
def awakeables_app(request: pytest.FixtureRequest) -> App:
    """The app of `harness` and `async_harness`: by default what the fixture `app` returns."""
    found: App = request.getfixturevalue("app")
    return found


@pytest.fixture
def harness(request: pytest.FixtureRequest, awakeables_app: App) -> Iterator[Harness]:
    """The app of the fixture `app`, served in memory: an `awakeables.testing.Harness`."""
    from awakeables.testing import Harness

    with Harness(_checked(awakeables_app), **_options(request)) as harness:
        request.node.stash[HARNESS] = harness
        yield harness


@pytest.fixture
def async_harness(request: pytest.FixtureRequest, awakeables_app: App) -> Iterator[AsyncHarness]:
    """The same for async tests: an `awakeables.testing.AsyncHarness`."""
    from awakeables.testing import AsyncHarness

    harness = AsyncHarness(_checked(awakeables_app), **_options(request))
    request.node.stash[HARNESS] = harness.blocking
    yield harness
    harness.blocking.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what has happened in a test that fails."""
    report = yield
    harness = item.stash.get(HARNESS, None)
    if harness is not None and call.when == "call" and report.failed:
        report.sections.append(("awakeables", harness.describe()))
    return report


def _checked(app: App) -> App:
    from awakeables import App

    if not isinstance(app, App):
        raise pytest.UsageError(
            f"the fixture `app` returns {type(app).__module__}.{type(app).__qualname__}, not an "
            "awakeables.App: define a fixture `awakeables_app` that returns one"
        )
    return app


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("awakeables"))):
        unknown = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in OPTIONS)]
        if unknown:
            raise pytest.UsageError(
                f"@pytest.mark.awakeables takes {', '.join(f'{name}=' for name in OPTIONS)}, "
                f"not {', '.join(unknown)}"
            )
        options |= marker.kwargs
    return options
