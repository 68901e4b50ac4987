"""Complete and inspect awakeables: `/awakeables`, `/restate/awakeables`, `/restate/a`."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, UnsetType

from awakeables.api import Api
from awakeables.core.awakeables import (
    STATES,
    Completion,
    Heartbeat,
    Verdict,
    VerdictKind,
    checked_progress,
)
from awakeables.core.ids import parse_id
from awakeables.core.outcomes import NO_REASON, NULL, Rejection, Resolution
from awakeables.core.sources import source_of
from awakeables.errors import NotPossible
from awakeables.ports import Expectation
from awakeables.web import render, views
from awakeables.web.audit import Deed, audited
from awakeables.web.bodies import Bodies, is_json_type, malformed
from awakeables.web.hiding import shown
from awakeables.web.lists import one_of, page, page_of
from awakeables.web.problems import Problem
from awakeables.web.request import HttpRequest, Response
from awakeables.web.responses import as_json
from awakeables.web.waiting import Waiting
from awakeables.wire.traces import TRACEPARENT, known_traceparent

IN_DOUBT = "the answer may or may not have been applied; it is safe to repeat the request"

REFUSALS: Final[dict[VerdictKind, tuple[int, str]]] = {
    "conflict": (409, "The awakeable already has another answer"),
    "late": (410, "The awakeable is no longer pending"),
    "unknown": (404, "There is no such awakeable"),
    "invalid": (422, "The value does not fit the awakeable"),
}
"""Status and title of each verdict that is a problem. The problem's type is the verdict's name."""


_refusal_decoder = msgspec.json.Decoder(views.RefusalView)


class AwakeableRoutes:
    """The routes for awakeables."""

    def __init__(self, api: Api, waiting: Waiting, bodies: Bodies) -> None:
        self._api = api
        self._waiting = waiting
        self._bodies = bodies

    async def resolve(self, request: HttpRequest) -> Response:
        awakeable_id = _awakeable_id(request)
        body = await self._bodies.read(request)
        expected = self._api.expectation_at_hand(awakeable_id)
        if expected is None:
            expected = await self._waiting.store(self._api.expectation(awakeable_id))
        return await self._settle(request, awakeable_id, self._resolution(request, body, expected))

    async def reject(self, request: HttpRequest) -> Response:
        awakeable_id = _awakeable_id(request)
        body = await self._bodies.read(request)
        return await self._settle(request, awakeable_id, self._rejection(request, body))

    async def heartbeat(self, request: HttpRequest) -> Response:
        """Keep a heartbeat, whose body is the progress; the answer tells whether anybody waits."""
        awakeable_id = _awakeable_id(request)
        body = await self._bodies.read(request)
        progress = Raw(self._bodies.json_of(request, body) if body else NULL)
        try:
            beat = Heartbeat(progress=checked_progress(progress))
        except ValueError as error:
            raise Problem(413, "too-large", "The progress is too large", str(error)) from None
        completion = Completion(
            awakeable_id=awakeable_id,
            body=beat,
            source=source_of("http", f"{self._api.new_id('evt')}{_token_suffix(request)}"),
            worker=request.text(b"awakeable-worker"),
        )
        verdict = await self._waiting.store(self._api.settle(completion))
        if verdict is not None:
            raise _refused(verdict, shows_outcome=False)
        row = await self._waiting.store(self._api.awakeable(awakeable_id))
        if row.state != "pending":
            raise NotPossible(f"awakeable {row.id} is {row.state}: it takes no more heartbeats")
        return as_json(views.HeartbeatView(awakeable_id=row.id, state="pending"))

    async def list(self, request: HttpRequest) -> Response:
        asked = page_of(request, "prom")
        rows = self._api.awakeables(asked, state=one_of(request, "state", STATES))
        found = [shown(request, row) for row in await self._waiting.store(rows)]
        return page(found, asked, render.awakeable, views.AwakeablesView)

    async def show(self, request: HttpRequest) -> Response:
        awakeable_id = _awakeable_id(request)
        row = await self._waiting.store(self._api.awakeable(awakeable_id))
        expected = await self._waiting.store(self._api.expectation(awakeable_id))
        return as_json(render.awakeable_in_full(shown(request, row), expected))

    async def _settle(
        self, request: HttpRequest, awakeable_id: str, body: Resolution | Rejection
    ) -> Response:
        completion = Completion(
            awakeable_id=awakeable_id,
            body=body,
            source=source_of("http", f"{self._api.new_id('evt')}{_token_suffix(request)}"),
            event_id=request.text(b"awakeable-event-id"),
            worker=request.text(b"awakeable-worker"),
            trace=known_traceparent(request.header(TRACEPARENT.encode())),
        )
        if request.holder is None:
            return await self._settled(completion, shows_outcome=True)
        act: Deed = "resolve" if isinstance(body, Resolution) else "reject"
        with audited(request, act, awakeable_id=awakeable_id):
            return await self._settled(
                completion, shows_outcome=request.holder.may("read") and not request.hides_payloads
            )

    async def _settled(self, completion: Completion, *, shows_outcome: bool) -> Response:
        """Settle and return the verdict. Someone else's outcome is shown only with the scope `read`."""
        try:
            with self._waiting.for_store():
                verdict = await self._api.settle(completion)
        except TimeoutError:
            raise self._waiting.no_answer(IN_DOUBT) from None
        assert verdict is not None, "only a heartbeat has no verdict"
        if verdict.kind in REFUSALS:
            raise _refused(verdict, shows_outcome=shows_outcome)
        return as_json(render.verdict(verdict))

    def _resolution(self, request: HttpRequest, body: bytes, expected: Expectation | None) -> Resolution:
        if expected is not None and expected.codec != "json":
            return Resolution.of_bytes(body)
        try:
            return Resolution.of_json(self._bodies.json_of(request, body))
        except Problem:
            if expected is None:
                # The caller should hear that the awakeable is unknown, not that its body is malformed.
                return Resolution.of_bytes(body)
            raise

    def _rejection(self, request: HttpRequest, body: bytes) -> Rejection:
        if body and is_json_type(request.media_type):
            return _json_rejection(self._bodies.checked_json(body))
        try:
            return Rejection(reason=body.decode() or NO_REASON)
        except UnicodeDecodeError as error:
            raise malformed(f"the reason is not UTF-8: {error.reason} at byte {error.start}") from None


def _token_suffix(request: HttpRequest) -> str:
    """The suffix of a completion's source: the name of its token."""
    return "" if request.holder is None else f":{request.holder.name}"


def _json_rejection(text: bytes) -> Rejection:
    try:
        given = _refusal_decoder.decode(text)
    except msgspec.ValidationError as error:
        raise malformed(f"a rejection is an object with reason, code and details: {error}") from None
    return Rejection(
        reason=given.reason or NO_REASON,
        code=500 if given.code is None else given.code,
        details=given.details if isinstance(given.details, UnsetType) else Raw(bytes(given.details)),
    )


def _refused(verdict: Verdict, *, shows_outcome: bool) -> Problem:
    """The problem for a completion that was not accepted."""
    status, title = REFUSALS[verdict.kind]
    shown = verdict.outcome if shows_outcome else None
    outcome = None if shown is None else render.outcome(shown)
    members = msgspec.structs.asdict(render.verdict(verdict)) | {"outcome": outcome}
    return Problem(status, verdict.kind, title, verdict.reason or title, members=members)


def _awakeable_id(request: HttpRequest) -> str:
    [awakeable_id] = request.names
    parse_id(awakeable_id, "prom")
    return awakeable_id
