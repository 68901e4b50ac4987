"""What operators do with the handlers, keys, subscriptions and schedules of a test's service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, overload

from awakeables.api import SeekTo
from awakeables.core.texts import excerpt
from awakeables.errors import InvalidInput
from awakeables.handlers.service import KeyedGroup, Service, VirtualObject
from awakeables.testing.running import Running, found
from awakeables.testing.simulated import SimulatedService

Pausable: TypeAlias = Callable[..., Awaitable[Any]] | Service | KeyedGroup
"""A handler; or a service, an object or a workflow, which is all of its handlers."""


class Operations:
    """What operators do, by the methods of the service's API; invocations have their own in `Running`."""

    def __init__(self, service: SimulatedService) -> None:
        """Operate this service."""
        self._service = service

    @overload
    def pause(self, of: Pausable) -> None: ...
    @overload
    def pause(self, of: VirtualObject, key: str) -> None: ...

    def pause(self, of: Pausable, key: str | None = None) -> None:
        """Pause a handler, a whole service, object or workflow, or a key of an object.

        What is called meanwhile waits. What runs goes on to its next suspension; and if a key is paused, what
        has begun to its end.

        Raises:
            NotFound: The app has no such handler.
            InvalidInput: The app has no such service or object, or the key can't be one.
        """
        name, handler = self._target(of, key)
        if key is None:
            self._service.operate(lambda api: api.pause_handlers(name, handler))
        else:
            self._service.operate(lambda api: api.pause_key(name, key))

    @overload
    def resume(self, of: Pausable) -> None: ...
    @overload
    def resume(self, of: VirtualObject, key: str) -> None: ...

    def resume(self, of: Pausable, key: str | None = None) -> None:
        """Take back a pause, if there is one; that of a service with those of its handlers.

        Raises:
            NotPossible: The handler's whole service is paused.
            NotFound: The app has no such handler.
            InvalidInput: The app has no such service or object, or the key can't be one.
        """
        name, handler = self._target(of, key)
        if key is None:
            self._service.operate(lambda api: api.resume_handlers(name, handler))
        else:
            self._service.operate(lambda api: api.resume_key(name, key))

    def pause_subscription(self, name: str) -> None:
        """Begin nothing for the records of a subscription until it is resumed; what has begun goes on.

        Args:
            name: Its `name=`, which is `service.handler` by default.

        Raises:
            NotFound: There is no such subscription; the message lists those that there are.
        """
        self._service.operate(lambda api: api.pause_subscription(name))

    def resume_subscription(self, name: str) -> None:
        """Go on with a subscription where it was paused, or where `seek` has moved it.

        Raises:
            NotFound: There is no such subscription.
        """
        self._service.operate(lambda api: api.resume_subscription(name))

    def seek(self, name: str, to: SeekTo) -> None:
        """Move a paused subscription; records are read again, or never.

        Args:
            name: The subscription.
            to: Where it goes on: `earliest`, `latest`, the number of a record, from 0 on, or an instant.

        Raises:
            NotFound: There is no such subscription.
            NotPossible: It is not paused.
            InvalidInput: There is no such record.
        """
        self._service.operate(lambda api: api.seek(name, to))

    def pause_schedule(self, name: str) -> None:
        """Begin nothing for the ticks of a schedule until it is resumed; what has begun goes on.

        Args:
            name: Its `name=`, which is `service.handler` by default.

        Raises:
            NotFound: There is no such schedule; the message lists those that there are.
        """
        self._service.operate(lambda api: api.pause_schedule(name))

    def resume_schedule(self, name: str) -> None:
        """Go on with a schedule at its next tick; those that have passed meanwhile are skipped.

        Raises:
            NotFound: There is no such schedule.
        """
        self._service.operate(lambda api: api.resume_schedule(name))

    def trigger_schedule(self, name: str) -> Running[Any] | None:
        """Begin the handler of a schedule now, also if it is paused; None: once the last one has ended.

        Raises:
            NotFound: There is no such schedule.
            NotPossible: The last invocation is open, and its `overlap` lets nothing wait for its end.
        """
        begun = self._service.operate(lambda api: api.trigger_schedule(name))
        return None if begun is None else found(self._service, self._service.store.tables.invocations[begun])

    def _target(self, of: Pausable, key: str | None) -> tuple[str, str | None]:
        """The name of a service, and perhaps of its handler."""
        app = self._service.app
        if key is not None and not isinstance(of, VirtualObject):
            raise InvalidInput(f"{excerpt(of)} is no object: it has no keys that can be paused")
        if isinstance(of, Service | KeyedGroup):
            if app.services.get(of.name) is not of:
                raise InvalidInput(f"{of!r} is not of app {app.name!r}")
            return of.name, None
        handler = app.declared(of)
        return handler.service, handler.name
