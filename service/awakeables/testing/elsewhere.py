"""The handlers of remote services in tests: they run in the same process, described as by their function."""

from __future__ import annotations

from collections.abc import Sequence

from awakeables.core.journal import Entry
from awakeables.errors import DeclarationError
from awakeables.handlers.attempt import Attempt, Origin, Ready
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.service import App, Service
from awakeables.remote.described import learn
from awakeables.remote.function import description_of


def function_of(name: str, functions: Sequence[Service]) -> App | None:
    """Make the app of a function that has these services; None if there are none.

    Raises:
        TypeError: One is not a service.
        DeclarationError: Two have the same name.
    """
    for each in functions:
        if not isinstance(each, Service):
            raise TypeError(f"functions= has services, each in the place of a remote one, not {each!r}")
    return App(name, services=list(functions)) if functions else None


def learn_all(app: App, function: App) -> None:
    """Have the remote services of an app learn from a function what handlers they have.

    Raises:
        DeclarationError: The app has no remote service of a name that the function has.
        FunctionMisfit: A remote service refers to a handler that the function does not have.
    """
    for name in function.services:
        remote = app.services.get(name)
        if not isinstance(remote, RemoteService):
            raise DeclarationError(f"functions=: the app has no remote service {name!r}")
        teach(remote, function)


def teach(remote: RemoteService, function: App) -> None:
    """Have a remote service learn what handlers it has, as at a start of the service.

    Raises:
        FunctionMisfit: It refers to a handler that the function does not have.
    """
    learn(remote, description_of(function))


class TestedAttempts:
    """Runs the handlers of remote services by the function's app, all others by the app that is tested."""

    __test__ = False

    def __init__(self, local: LocalAttempts, elsewhere: LocalAttempts, remote: frozenset[str]) -> None:
        """Run the handlers of these remote services elsewhere."""
        self._local = local
        self._elsewhere = elsewhere
        self._remote = remote

    def open(self, origin: Origin, history: Sequence[Entry], ready: Ready) -> Attempt:
        """As the port says."""
        attempts = self._elsewhere if origin.service in self._remote else self._local
        return attempts.open(origin, history, ready)

    def unavailable(self) -> Sequence[str]:
        """As the port says: none."""
        return ()

    async def close(self) -> None:
        """As the port says."""
        await self._local.close()
        await self._elsewhere.close()
