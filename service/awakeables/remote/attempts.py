"""Attempts of an app of which some services are remote: local handlers run here, the others elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

from awakeables.core.journal import Entry, Input
from awakeables.core.replay import open_awakeables
from awakeables.core.texts import message_of
from awakeables.handlers.attempt import Attempt, Broken, Crashed, Left, Origin, Progress, Ready
from awakeables.handlers.execution import World
from awakeables.handlers.local import LocalAttempts, RunFailed
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.service import App
from awakeables.handlers.stateless import AdvanceRequest, StatelessAttempt, SuspendedWaits
from awakeables.remote.client import FunctionFailed
from awakeables.remote.functions import FunctionDown, Functions
from awakeables.remote.messages import FunctionRequest, encode


class RemoteAttempts:
    """Runs the handlers of remote services by their functions, and all others in this process."""

    def __init__(
        self, functions: Functions, app: App, world: World, executor: Executor, run_failed: RunFailed
    ) -> None:
        """As `LocalAttempts`; `functions` sends the requests."""
        self._local = LocalAttempts(app, world, executor, run_failed)
        self._functions = functions
        self._app = app
        self._world = world
        self._suspended = SuspendedWaits()

    def open(self, origin: Origin, history: Sequence[Entry], ready: Ready) -> Attempt:
        """As the port says; an attempt elsewhere never calls `ready`, because an answer is complete."""
        service = self._app.services.get(origin.service)
        if not isinstance(service, RemoteService):
            return self._local.open(origin, history, ready)
        return self.elsewhere(service, origin, history)

    def elsewhere(self, service: RemoteService, origin: Origin, history: Sequence[Entry]) -> Attempt:
        """Open an attempt whose requests go to the function of this service.

        Raises:
            NotFound: As `open`.
        """
        given = history[0]
        assert isinstance(given, Input)
        self._app.handler(origin.service, origin.handler, given.version)

        async def post(request: AdvanceRequest) -> Progress:
            return await self._post(service, request)

        return StatelessAttempt(
            origin, history, post=post, spawn=self._local.spawn, suspended=self._suspended
        )

    def unavailable(self) -> Sequence[str]:
        """As the port says: the handlers whose functions are down."""
        return self._functions.unavailable()

    async def close(self) -> None:
        """As the port says; requests under way are given up."""
        await self._local.close()

    async def _post(self, service: RemoteService, advance: AdvanceRequest) -> Progress:
        world = self._world
        request = FunctionRequest(
            advance=advance,
            app=world.app,
            reply_to=world.reply_to,
            revoke_to=world.revoke_to,
            max_entries=world.max_entries,
            max_actions=world.max_actions,
        )
        try:
            return await self._functions.advance(service, encode(request))
        except FunctionDown:
            # Let go, not failed: nothing was sent. It is not claimed here while the function is down.
            return Progress(ended=Left(), open_awakeables=open_awakeables(advance.history))
        except FunctionFailed as failure:
            end = Broken if failure.lasting else Crashed
            return Progress(ended=end(kind=failure.kind, message=message_of(failure)))
