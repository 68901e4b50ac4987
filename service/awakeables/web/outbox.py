"""Looking at records that are not in Kafka, and sending refused ones again: `/outbox`."""

from __future__ import annotations

from msgspec.structs import replace
from starlette.responses import Response

from awakeables.core.ids import EFFECT_KINDS, parse_id_of
from awakeables.core.orders import EFFECT_STATES, QueuedEffect
from awakeables.engine.engine import Engine
from awakeables.errors import NotFound
from awakeables.web import render, shapes
from awakeables.web.answers import as_json
from awakeables.web.audit import audited
from awakeables.web.lists import one_of, page, page_of
from awakeables.web.request import Request
from awakeables.web.waiting import Waiting


class Outbox:
    """The routes below `/outbox`."""

    def __init__(self, engine: Engine, waiting: Waiting) -> None:
        self._engine = engine
        self._store = engine.store
        self._waiting = waiting

    async def list(self, request: Request) -> Response:
        asked = page_of(request, *EFFECT_KINDS)
        state = one_of(request, "state", EFFECT_STATES) or "failed"
        rows = await self._waiting.store(self._store.queued_effects(asked, state=state))
        return page([self._explained(row) for row in rows], asked, render.queued_effect, shapes.Outbox)

    async def show(self, request: Request) -> Response:
        event_id = _checked(request)
        row = await self._waiting.store(self._store.queued_effect(event_id))
        if row is None:
            raise NotFound(f"no record {event_id} in the outbox")
        return as_json(render.queued_effect_in_full(self._explained(row)))

    async def resend(self, request: Request) -> Response:
        """Accepted: it goes out with what else is unsent."""
        event_id = _checked(request)
        with audited(request, "resend", event_id=event_id):
            effect = await self._waiting.store(
                self._engine.republish(event_id, by=request.by),
                doubt="it is not known whether the record is sent again; look whether it is still failed",
            )
        return as_json(shapes.Republished(id=event_id, topic=effect.topic), status=202)

    def _explained(self, row: QueuedEffect) -> QueuedEffect:
        """An unsent record with what holds it up, which only this process knows."""
        return row if row.state == "failed" else replace(row, reason=self._engine.relay.holdup(row.effect))


def _checked(request: Request) -> str:
    [event_id] = request.names
    parse_id_of(event_id, EFFECT_KINDS)
    return event_id
