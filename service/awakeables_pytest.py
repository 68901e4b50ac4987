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

OPTIONS = ("suspend", "thorough", "retry", "seed", "functions")

HARNESS = pytest.StashKey["Harness"]()
ERROR = pytest.StashKey[BaseException]()
"""What the test, or a fixture of it, has raised."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "awakeables(suspend=True, thorough=False, retry=…, seed=0, functions=[]): how the fixtures "
        "`harness` and `async_harness` serve the app",
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

    harness = Harness(_checked(awakeables_app), **_options(request))
    request.node.stash[HARNESS] = harness
    yield harness
    _close(harness, request)


@pytest.fixture
def async_harness(request: pytest.FixtureRequest, awakeables_app: App) -> Iterator[AsyncHarness]:
    """The same for async tests: an `awakeables.testing.AsyncHarness`."""
    from awakeables.testing import AsyncHarness

    harness = AsyncHarness(_checked(awakeables_app), **_options(request))
    request.node.stash[HARNESS] = harness.blocking
    yield harness
    _close(harness.blocking, request)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, once, what has happened in a test that fails, or its set-up or its end; remember its error."""
    report = yield
    if call.excinfo is not None:
        item.stash[ERROR] = call.excinfo.value
    harness = item.stash.get(HARNESS, None)
    if harness is not None and report.failed:
        report.sections.append(("awakeables", harness.describe()))
        del item.stash[HARNESS]
    return report


def _checked(app: App) -> App:
    from awakeables import App

    if not isinstance(app, App):
        raise pytest.UsageError(
            f"the fixture `app` returns {type(app).__module__}.{type(app).__qualname__}, not an "
            "awakeables.App: define a fixture `awakeables_app` that returns one"
        )
    return app


def _close(harness: Harness, request: pytest.FixtureRequest) -> None:
    """Leave the harness as a `with` block around the test would."""
    error = request.node.stash.get(ERROR, None)
    harness.__exit__(None if error is None else type(error), error, None)


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    # Of a node's own markers, those of its parameters are the last.
    markers = [each for node in request.node.listchain() for each in node.own_markers]
    for marker in (each for each in markers if each.name == "awakeables"):
        unknown = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in OPTIONS)]
        if unknown:
            raise pytest.UsageError(
                f"@pytest.mark.awakeables takes {', '.join(f'{name}=' for name in OPTIONS)}, "
                f"not {', '.join(unknown)}"
            )
        options |= marker.kwargs
    return options
