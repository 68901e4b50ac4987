"""Inspect records that are not in Kafka, and resend those that it rejected: `/outbox`."""

from __future__ import annotations

from awakeables.api import Api
from awakeables.core.effects import EFFECT_STATES
from awakeables.core.ids import EFFECT_KINDS, parse_id_of
from awakeables.web import render, views
from awakeables.web.audit import audited
from awakeables.web.hiding import shown
from awakeables.web.lists import one_of, page, page_of
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting


class OutboxRoutes:
    """The routes below `/outbox`."""

    def __init__(self, api: Api, waiting: Waiting) -> None:
        self._api = api
        self._waiting = waiting

    async def list(self, request: HttpRequest) -> Response:
        asked = page_of(request, *EFFECT_KINDS)
        state = one_of(request, "state", EFFECT_STATES) or "failed"
        rows = await self._waiting.store(self._api.queued_effects(asked, state=state))
        return page([shown(request, row) for row in rows], asked, render.queued_effect, views.OutboxView)

    async def show(self, request: HttpRequest) -> Response:
        event_id = _event_id(request)
        row = await self._waiting.store(self._api.queued_effect(event_id))
        return as_json(render.queued_effect_in_full(shown(request, row)))

    async def resend(self, request: HttpRequest) -> Response:
        """Mark the record as unsent, so that the relay publishes it; answered 202."""
        event_id = _event_id(request)
        with audited(request, "resend", event_id=event_id):
            effect = await self._waiting.store(
                self._api.republish(event_id, by=request.by),
                doubt="the record may or may not be resent; check whether it is still failed",
            )
        return as_json(views.RepublishedView(id=event_id, topic=effect.topic), status=202)


def _event_id(request: HttpRequest) -> str:
    [event_id] = request.names
    parse_id_of(event_id, EFFECT_KINDS)
    return event_id
