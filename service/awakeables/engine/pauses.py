"""What operators have paused: handlers, and whole services, of which this instance claims nothing.

The rows are the truth. Each instance has read them before it claims anything, and reads them again with every
heartbeat; the one that an operator asks knows at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import structlog

from awakeables.core.commands import PauseHandlers
from awakeables.core.pauses import PauseRow, pause_of
from awakeables.core.replies import PauseChanged
from awakeables.core.versions import parsed_target
from awakeables.engine.committer import Committer
from awakeables.errors import NotPossible, StoreUnavailable
from awakeables.handlers.service import App
from awakeables.ports import PauseReader
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics

log = structlog.stdlib.get_logger(__name__)


class Pauses:
    """The pauses of one app, as this instance knows them.

    Attributes:
        rows: All of them, by target.
        targets: The handlers that are paused, as `versions.target` names them.
    """

    def __init__(
        self,
        app: App,
        reader: PauseReader,
        committer: Committer,
        *,
        interval_s: float,
        metrics: Metrics,
        on_resumed: Callable[[], None],
    ) -> None:
        """Know of no pause before `load`.

        Args:
            app: Its handlers can be paused.
            reader: Where the pauses are read.
            committer: Commits them.
            interval_s: How often they are read again.
            metrics: Has a gauge for each handler.
            on_resumed: Called when something can be claimed again.
        """
        self.rows: tuple[PauseRow, ...] = ()
        self.targets: tuple[str, ...] = ()
        self._app = app
        self._reader = reader
        self._committer = committer
        self._interval_s = interval_s
        self._metrics = metrics
        self._on_resumed = on_resumed
        self._show()

    def of(self, service: str, handler: str) -> PauseRow | None:
        """The pause of a handler, or of its service; None: it is not paused."""
        return pause_of(self.rows, service, handler)

    async def run(self, on_unexpected: Callable[[Exception], None]) -> None:
        """Read them again and again, until cancelled: other instances write them, too."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.read()
            except StoreUnavailable:
                continue  # the committer reports the outage
            except Exception as error:
                on_unexpected(error)

    async def pause(self, service: str, handler: str | None, *, by: str | None) -> PauseRow:
        """Pause a handler, or a service; what is paused already stays so since then.

        Raises:
            NotFound: The app has no such service or handler.
        """
        self._check(service, handler)
        target = service if handler is None else f"{service}/{handler}"
        command = PauseHandlers(target=target, paused=True, by=by)
        changed = await self._committer.commit(command, PauseChanged)
        await self.read()
        assert changed.row is not None
        return changed.row

    async def resume(self, service: str, handler: str | None) -> Sequence[str]:
        """Resume a handler; or a service, with those of its handlers that were paused one by one.

        Returns:
            What was paused, and is not any more.

        Raises:
            NotFound: The app has no such service or handler, and there is no pause of it.
            NotPossible: The handler's whole service is paused.
        """
        paused = {row.target for row in await self._reader.pauses()}
        if handler is not None and service in paused:
            raise NotPossible(f"the whole service {service} is paused: resume that")
        if handler is None:
            wanted = sorted(each for each in paused if each == service or each.startswith(f"{service}/"))
        else:
            wanted = [each for each in (f"{service}/{handler}",) if each in paused]
        if not wanted:
            self._check(service, handler)
        resumed = []
        for target in wanted:
            command = PauseHandlers(target=target, paused=False)
            if (await self._committer.commit(command, PauseChanged)).changed:
                resumed.append(target)
        await self.read()
        return resumed

    def _show(self) -> None:
        paused = set(self.targets)
        for target in self._app.targets:
            service, handler = parsed_target(target)[:2]
            self._metrics.handler_paused.labels(service, handler).set(target in paused)

    def _check(self, service: str, handler: str | None) -> None:
        if handler is None:
            self._app.service(service)
        else:
            self._app.handler(service, handler)

    async def read(self) -> None:
        """Read them, and show what has changed.

        Raises:
            StoreUnavailable: The store can't be read.
        """
        rows = tuple(await self._reader.pauses())
        if rows == self.rows:
            return
        before, self.rows = self.targets, rows
        self.targets = tuple(
            target for target in self._app.targets if pause_of(rows, *parsed_target(target)[:2]) is not None
        )
        self._show()
        log.log(
            logging.WARNING if rows else logging.INFO,
            events.HANDLERS_PAUSED,
            paused=[row.target for row in rows],
        )
        if not set(before) <= set(self.targets):
            self._on_resumed()
