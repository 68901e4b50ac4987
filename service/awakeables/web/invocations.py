"""Inspect invocations, get their results, and pause, resume, restart, cancel or kill them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from awakeables.api import Api
from awakeables.core.ids import parse_id
from awakeables.core.invocations import STATUSES, Invocation
from awakeables.errors import ValueSealed
from awakeables.ports import InvocationFilter, ListedStatus
from awakeables.web import hiding, render, views
from awakeables.web.audit import audited
from awakeables.web.guard import Guard
from awakeables.web.hiding import shown
from awakeables.web.lists import number_in, one_of, page, page_of
from awakeables.web.problems import bad_request
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json, ask_later, not_yet, of_result
from awakeables.web.settings import WebSettings
from awakeables.web.waiting import Waiting

LISTED_STATUSES: Final[tuple[ListedStatus, ...]] = (*STATUSES, "open")

MOST_OF_A_JOURNAL: Final = 4 * 1024 * 1024
"""Maximum bytes of a journal to show: rendering tens of thousands of entries blocks all other requests."""

MOST_OF_A_STORED_JOURNAL: Final = 32 * 1024 * 1024
"""Maximum bytes of a journal to return whole; without a text for each entry it is quickly encoded."""


class InvocationRoutes:
    """The routes below `/invocations`."""

    def __init__(self, api: Api, waiting: Waiting, guard: Guard, settings: WebSettings) -> None:
        self._api = api
        self._guard = guard
        self._waiting = waiting
        self._retry_after = settings.retry_after_header

    async def list(self, request: HttpRequest) -> Response:
        asked = page_of(request, "inv")
        which, topic = _filter(request), request.query.get("topic")
        key, object_key = request.query.get("idempotency_key"), request.query.get("key")
        rows: Sequence[Invocation]
        if key is not None:
            found = await self._waiting.store(
                self._api.invocations_by_key(
                    key, service=which.service, handler=which.handler, object_key=object_key
                )
            )
            rows = [row for row in found if which.includes(row)]
            rows = [row for row in rows if asked.before is None or row.id < asked.before][: asked.limit]
        else:
            rows = await self._waiting.store(self._api.invocations(asked, which, topic=topic))
        return page([shown(request, row) for row in rows], asked, render.invocation, views.InvocationsView)

    async def show(self, request: HttpRequest) -> Response:
        row = await self._row(request)
        key = await self._waiting.store(self._api.idempotency_key(row.id))
        problem = None
        try:
            journal, whole = await self._waiting.store(self._api.journal(row.id, MOST_OF_A_JOURNAL))
        except msgspec.MsgspecError as error:
            journal, problem = [], f"it was written by a release that this one can't read: {error}"
        except ValueSealed as error:
            journal, problem = [], f"it can't be read: {error}"
        else:
            if not whole:
                problem = f"it is larger than {MOST_OF_A_JOURNAL:,} bytes; only the beginning is shown"
        if request.hides_payloads:
            row, journal = hiding.invocation(row), hiding.journal(journal)
        return as_json(render.invocation_in_full(row, journal, problem, key=key))

    async def journal(self, request: HttpRequest) -> Response:
        """Return the whole journal, to be stored and replayed."""
        invocation_id = _invocation_id(request)
        row, journal = await self._waiting.store(
            self._api.with_journal(invocation_id, MOST_OF_A_STORED_JOURNAL)
        )
        self._guard.check_payloads(request)
        return as_json(render.journal(self._api.app.name, row, journal))

    async def output(self, request: HttpRequest) -> Response:
        """Return the result if there is one, without waiting."""
        row = await self._row(request)
        self._guard.check_own(request, row)
        result = row.known_result
        if result is None:
            return not_yet(row, retry_after=self._retry_after)
        return of_result(row.id, result)

    async def attach(self, request: HttpRequest) -> Response:
        """Wait for the result, as a call does."""
        row = await self._row(request)
        self._guard.check_own(request, row)
        outcome = row.known_result or await self._waiting.result(request, row.id)
        if outcome is not None:
            return of_result(row.id, outcome)
        return not_yet(await self._row(request), retry_after=self._retry_after)

    async def why(self, request: HttpRequest) -> Response:
        """Say what the invocation waits for, and so on along calls and keys of objects."""
        invocation_id = _invocation_id(request)
        chain = await self._waiting.store(self._api.why(invocation_id))
        return as_json(render.why([shown(request, each) for each in chain]))

    async def resume(self, request: HttpRequest) -> Response:
        invocation_id = _invocation_id(request)
        with audited(request, "resume", invocation_id=invocation_id):
            row = await self._waiting.store(
                self._api.resume(invocation_id, by=request.by),
                doubt="the invocation may or may not have been resumed; check its status",
            )
        return as_json(render.invocation(shown(request, row)))

    async def pause(self, request: HttpRequest) -> Response:
        """Pause until it is resumed; one that runs is paused at its next wait. Answered 202."""
        invocation_id = _invocation_id(request)
        with audited(request, "pause", invocation_id=invocation_id):
            row = await self._waiting.store(
                self._api.pause(invocation_id, by=request.by),
                doubt="the invocation may or may not be paused; it is safe to repeat the request",
            )
        return as_json(render.invocation(shown(request, row)), status=202)

    async def purge(self, request: HttpRequest) -> Response:
        """Delete an invocation that has ended."""
        invocation_id = _invocation_id(request)
        with audited(request, "purge", invocation_id=invocation_id):
            await self._waiting.store(
                self._api.purge(invocation_id),
                doubt="the invocation may or may not have been deleted; look it up",
            )
        return as_json(views.PurgedView(count=1))

    async def restart(self, request: HttpRequest) -> Response:
        """Begin it again under a new ID, from an entry of its journal, or from its input alone."""
        invocation_id = _invocation_id(request)
        from_entry = number_in("from_entry", request.query.get("from_entry", "0"))
        with audited(request, "restart", invocation_id=invocation_id, from_entry=from_entry):
            new_id = await self._waiting.store(
                self._api.restart(invocation_id, from_entry=from_entry, by=request.by),
                doubt="the invocation may or may not have been restarted; look at its acts",
            )
        return as_json(
            views.BegunView(invocation_id=new_id, created=True),
            status=202,
            headers=ask_later(new_id, self._retry_after),
        )

    async def cancel(self, request: HttpRequest) -> Response:
        """Cancel at the handler's next await; an invocation that never ran ends at once. Answered 202."""
        invocation_id = _invocation_id(request)
        with audited(request, "cancel", invocation_id=invocation_id):
            row = await self._waiting.store(
                self._api.cancel(invocation_id, by=request.by),
                doubt="the invocation may or may not have been cancelled; it is safe to repeat the request",
            )
        return as_json(render.invocation(shown(request, row)), status=202)

    async def kill(self, request: HttpRequest) -> Response:
        invocation_id = _invocation_id(request)
        with audited(request, "kill", invocation_id=invocation_id):
            row = await self._waiting.store(
                self._api.kill(invocation_id, by=request.by),
                doubt="the invocation may or may not have been killed; it is safe to repeat the request",
            )
        return as_json(render.invocation(shown(request, row)))

    async def _row(self, request: HttpRequest) -> Invocation:
        invocation_id = _invocation_id(request)
        return await self._waiting.store(self._api.invocation(invocation_id))


def _filter(request: HttpRequest) -> InvocationFilter:
    """Which invocations are asked for, apart from what is looked up: a topic, or an idempotency key.

    Raises:
        Problem: A status is not one, or the parameters don't go together.
    """
    query = request.query
    if "idempotency_key" in query:
        if "subscription" in query or "topic" in query:
            raise bad_request("subscription= and topic= can't be used together with idempotency_key=")
    elif "key" in query:
        raise bad_request("key= can be used only together with idempotency_key=")
    elif "handler" in query and "service" not in query:
        raise bad_request("handler= can be used only together with service= or idempotency_key=")
    if "subscription" in query and "topic" in query:
        raise bad_request("give subscription= or topic=, not both")
    return InvocationFilter(
        status=one_of(request, "status", LISTED_STATUSES),
        service=query.get("service"),
        handler=query.get("handler"),
        subscription=query.get("subscription"),
    )


def _invocation_id(request: HttpRequest) -> str:
    [invocation_id] = request.names
    parse_id(invocation_id, "inv")
    return invocation_id
