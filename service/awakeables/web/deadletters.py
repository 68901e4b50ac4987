"""Inspect, resend and purge dead letters: `/dead-letters`."""

from __future__ import annotations

from datetime import timedelta

from awakeables.api import Api
from awakeables.core.durations import parse_duration
from awakeables.core.ids import parse_id
from awakeables.core.texts import excerpt
from awakeables.telemetry.vocabulary import LETTER_CODES
from awakeables.web import render, views
from awakeables.web.audit import audited
from awakeables.web.hiding import shown
from awakeables.web.lists import page, page_of
from awakeables.web.problems import bad_request
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting


class DeadLetterRoutes:
    """The routes below `/dead-letters`."""

    def __init__(self, api: Api, waiting: Waiting) -> None:
        self._api = api
        self._waiting = waiting

    async def list(self, request: HttpRequest) -> Response:
        asked = page_of(request, "dlq")
        rows = await self._waiting.store(self._api.dead_letters(asked))
        return page([shown(request, row) for row in rows], asked, render.dead_letter, views.DeadLettersView)

    async def show(self, request: HttpRequest) -> Response:
        letter_id = _letter_id(request)
        row = await self._waiting.store(self._api.dead_letter(letter_id))
        return as_json(render.dead_letter_in_full(shown(request, row)))

    async def resend(self, request: HttpRequest) -> Response:
        """Queue the record in the outbox, for the topic that it came from; answered 202."""
        letter_id = _letter_id(request)
        with audited(request, "resend", dead_letter=letter_id):
            effect = await self._waiting.store(
                self._api.resend(letter_id, by=request.by),
                doubt="the record may or may not be resent; its `resent` count shows it",
            )
        answer = views.ResentView(id=letter_id, event_id=effect.event_id, topic=effect.topic)
        return as_json(answer, status=202)

    async def purge(self, request: HttpRequest) -> Response:
        """Delete dead letters by age, by code, or both."""
        older_than, code = request.query.get("older_than"), request.query.get("code")
        if code is not None and code not in LETTER_CODES:
            raise bad_request(f"code {excerpt(code)} is not one of {', '.join(LETTER_CODES)}")
        if older_than is None and code is None:
            raise bad_request("give older_than, such as 7d, a code, or both; older_than=0s means all")
        try:
            age = timedelta(0) if older_than is None else parse_duration(older_than)
        except ValueError as error:
            raise bad_request(f"older_than: {error}") from None
        with audited(request, "purge", older_than=str(age), code=code):
            count = await self._waiting.store(
                self._api.purge_dead_letters(older_than=age, code=code),
                doubt="some may have been deleted; repeat the request to delete the rest",
            )
        return as_json(views.PurgedView(count=count))


def _letter_id(request: HttpRequest) -> str:
    [letter_id] = request.names
    parse_id(letter_id, "dlq")
    return letter_id
