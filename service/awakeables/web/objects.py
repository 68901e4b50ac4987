"""Inspect and pause the queues of virtual objects' keys, and show and edit their state: `/objects`."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from awakeables.api import Api
from awakeables.core.outcomes import NULL
from awakeables.web import render, views
from awakeables.web.audit import audited
from awakeables.web.bodies import Bodies, malformed
from awakeables.web.hiding import shown
from awakeables.web.lists import limit_of, one_of, page_by_name
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting

HAVING: Final = ("queue", "state")
"""Which keys of an object are listed."""

_edit_decoder = msgspec.json.Decoder(dict[str, Raw])


class ObjectRoutes:
    """The routes below `/objects`."""

    def __init__(self, api: Api, waiting: Waiting, bodies: Bodies) -> None:
        self._api = api
        self._waiting = waiting
        self._bodies = bodies

    async def list(self, request: HttpRequest) -> Response:
        """The keys that have queues or are paused, or else those that have state."""
        [name] = request.names
        limit, after = limit_of(request), request.query.get("after", "")
        if one_of(request, "having", HAVING) == "state":
            keys = await self._waiting.store(self._api.keys_with_state(name, limit + 1, after))
            return page_by_name(keys, limit, str, render.key_alone, views.ObjectKeysView)
        rows = await self._waiting.store(self._api.queues(name, limit + 1, after))
        return page_by_name(rows, limit, lambda row: row.key, render.queue, views.ObjectKeysView)

    async def show(self, request: HttpRequest) -> Response:
        """Show who holds a key, what for, and who waits behind; also if nothing does."""
        name, key = request.names
        status = await self._waiting.store(self._api.key_status(name, key))
        return as_json(render.key_status(shown(request, status)))

    async def state(self, request: HttpRequest) -> Response:
        name, key = request.names
        limit, after = limit_of(request), request.query.get("after", "")
        found = await self._waiting.store(self._api.state(name, key, limit + 1, after))
        entries = [shown(request, entry) for entry in found]
        return page_by_name(entries, limit, lambda entry: entry.name, render.state_entry, views.StateView)

    async def edit(self, request: HttpRequest) -> Response:
        """Set the values of a JSON object, and remove those names whose value is null."""
        name, key = request.names
        body = self._bodies.json_of(request, await self._bodies.read(request))
        try:
            values = {each: bytes(value) for each, value in _edit_decoder.decode(body).items()}
        except msgspec.ValidationError as error:
            raise malformed(f"a change of the state is an object of names and values: {error}") from None
        with audited(request, "edit", object=name, key=key, names=sorted(values)):
            await self._waiting.store(
                self._api.edit_state(
                    name,
                    key,
                    {each: None if value == NULL else value for each, value in values.items()},
                    by=request.by,
                ),
                doubt="the state may or may not have been changed; it is safe to repeat the request",
            )
        return await self.show(request)

    async def pause(self, request: HttpRequest) -> Response:
        """Let no further exclusive invocation of the key begin."""
        name, key = request.names
        with audited(request, "pause", object=name, key=key):
            status = await self._waiting.store(
                self._api.pause_key(name, key, by=request.by),
                doubt="the key may or may not have been paused; it is safe to repeat the request",
            )
        return as_json(render.key_status(shown(request, status)))

    async def resume(self, request: HttpRequest) -> Response:
        name, key = request.names
        with audited(request, "resume", object=name, key=key):
            status = await self._waiting.store(
                self._api.resume_key(name, key, by=request.by),
                doubt="the key may or may not have been resumed; it is safe to repeat the request",
            )
        return as_json(render.key_status(shown(request, status)))
