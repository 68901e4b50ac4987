"""Calls of one handler by another: what `ctx.call`, `ctx.send` and `ctx.attach` make and return."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from awakeables.core.commands import Idempotency, NewAwakeable, NewCall, OfWorkflow, Queue
from awakeables.core.ids import parse_id, promise_id
from awakeables.core.journal import (
    AttachRequested,
    CallRefused,
    CallRequested,
    Input,
    PromiseCreated,
    SendRequested,
    encode_chunk,
)
from awakeables.core.outcomes import Cancellation, Outcome, Resolution
from awakeables.core.texts import excerpt
from awakeables.errors import Cancelled, InvalidInput, MalformedId, NotFound, TerminalError
from awakeables.handlers.attempt import AwakeableWait
from awakeables.handlers.execution import NOWHERE, Durable, Execution, raise_terminal
from awakeables.handlers.serde import Codec, codec_of_value, explain

if TYPE_CHECKING:
    from awakeables.handlers.service import Handler

T_co = TypeVar("T_co", covariant=True)

MAX_DEPTH = 200
"""How deep calls may be nested: a recursion without an end must not fill the disk."""

MAX_INPUT_BYTES = 32 * 1024 * 1024
"""As much as a body over HTTP may have."""

LONGEST_KEY = 255
"""Of an idempotency key, in characters."""

LONGEST_OBJECT_KEY = 1024
"""Of the key of a virtual object, in bytes of UTF-8."""

NO_INPUT: Any = object()
"""In place of an input, where none is given."""

UNATTACHED = -2
"""Index of the wait for a call that was not awaited yet."""


def idempotency_scope(service: str, handler: str, key: str | None = None) -> str:
    """The scope of a handler's idempotency keys, for each key of an object a scope of its own."""
    return f"{service}/{handler}" if key is None else f"{service}/{handler}/{key}"


def workflow_of(handler: Handler, key: str | None) -> OfWorkflow | None:
    """What makes an invocation of a handler one of a workflow's key; None: nothing."""
    if not handler.of_workflow:
        return None
    is_run = handler.kind == "run"
    promises = tuple(
        NewAwakeable(id=promise_id(handler.service, key or "", name), codec=promise.codec.kind, title=name)
        for name, promise in (handler.promises.items() if is_run else ())
    )
    return OfWorkflow(is_run=is_run, scope=f"run of {handler.service}", promises=promises)


def run_key(workflow: OfWorkflow | None, key: str | None, content: bytes | None) -> Idempotency | None:
    """What a run is begun once by, if it is one."""
    if workflow is None or not workflow.is_run:
        return None
    fingerprint = hashlib.sha256(content or b"").hexdigest()
    return Idempotency(scope=workflow.scope, key=key or "", fingerprint=fingerprint)


def beginning(given: Input, handler: Handler, workflow: OfWorkflow | None) -> bytes:
    """The beginning of a journal: the input, and the promises of a run."""
    promises = () if workflow is None else workflow.promises
    names = handler.promises if promises else ()
    created = [PromiseCreated(id=each.id, name=name) for each, name in zip(promises, names, strict=True)]
    return encode_chunk([given, *created])


class Call(Durable[T_co]):
    """An invocation that the handler has begun, or attached to.

    Awaiting returns its result, or raises its failure: a `TerminalError` with the reason, code and details
    that it failed with, or `Cancelled`. One that `ctx.send` began can be awaited, too.
    """

    __slots__ = ("_id",)

    def __init__(
        self, execution: Execution, index: int, read: Callable[[Outcome], T_co], invocation_id: str
    ) -> None:
        super().__init__(execution, index, read)
        self._id = invocation_id

    @property
    def id(self) -> str:
        """The invocation's ID: look it up, cancel it, or attach to it from elsewhere."""
        return self._id

    def __await__(self) -> Generator[Any, Any, T_co]:
        self._attach()
        return super().__await__()

    def cancel(self) -> None:
        """Tell the invocation to cancel, whoever began it; awaiting it waits for its end."""
        self._execution.check()
        self._execution.unawaited.pop(self._index, None)
        self._execution.call_off(None if self._index == UNATTACHED else self._index, self._id)

    def _combine(self) -> None:
        self._attach()
        super()._combine()

    def _attach(self) -> None:
        """Journal that the handler waits for it, the first time."""
        if self._index == UNATTACHED:
            self._index = request_attachment(self._execution, self._id)


def call(
    execution: Execution,
    function: Callable[..., Any],
    given: Any,
    *,
    key: str | None = None,
    idempotency_key: str | None,
    headers: Mapping[str, str],
) -> Call[Any]:
    """Begin an invocation that the handler waits for."""
    what = "ctx.call"
    handler = _handler(execution, function, what)
    op = CallRequested(
        id="",
        wait="",
        service=handler.service,
        handler=handler.name,
        idempotency_key=_checked_key(execution, idempotency_key, what),
        key=_object_key(execution, handler, key, what),
    )
    if handler.kind == "run" and op.idempotency_key is not None:
        raise execution.misuse(f"{what}: a run is begun once per key; leave out idempotency_key=")
    content = _input(execution, op, handler, given)
    is_new = not execution.replay.replaying
    if is_new:
        ids = execution.world.ids
        op = replace(op, id=ids.new("inv"), wait=ids.new("prom"))
    index, asked = execution.ask(op)
    if is_new and index != NOWHERE:
        execution.new_calls.append(_new_call(execution, asked, handler, content, headers))
        # With an idempotency key others may wait for it, too, so it is not cancelled with this handler.
        owned = op.idempotency_key is None and handler.kind != "run"
        row = NewAwakeable(id=asked.wait, source=asked.id, owned=owned)
        execution.new_awakeables.append(row)
    execution.waits[index] = AwakeableWait(index=index, awakeable_id=asked.wait)
    execution.unawaited[index] = f"ctx.call({handler.name})"
    return Call(execution, index, _reader(execution, asked.id, handler.output), asked.id)


def send(
    execution: Execution,
    function: Callable[..., Any],
    given: Any,
    *,
    key: str | None = None,
    delay_ms: int,
    idempotency_key: str | None,
    headers: Mapping[str, str],
) -> Call[Any]:
    """Begin an invocation that goes its own way."""
    what = "ctx.send"
    handler = _handler(execution, function, what)
    op = SendRequested(
        id="",
        service=handler.service,
        handler=handler.name,
        idempotency_key=_checked_key(execution, idempotency_key, what),
        delay_ms=delay_ms or None,
        key=_object_key(execution, handler, key, what),
    )
    content = _input(execution, op, handler, given)
    is_new = not execution.replay.replaying
    if is_new:
        op = replace(op, id=execution.world.ids.new("inv"))
    index, asked = execution.ask(op)
    if is_new and index != NOWHERE:
        execution.new_calls.append(_new_call(execution, asked, handler, content, headers, delay_ms=delay_ms))
    return Call(execution, UNATTACHED, _reader(execution, asked.id, handler.output), asked.id)


def attach(execution: Execution, invocation_id: str, codec: Codec[Any]) -> Call[Any]:
    """Wait for the end of an invocation that was begun elsewhere.

    Raises:
        TerminalError: The text is not an invocation ID (code 400).
    """
    try:
        parse_id(invocation_id, "inv")
    except MalformedId as error:
        raise TerminalError(str(error), code=400) from error
    if invocation_id == execution.invocation_id:
        raise execution.misuse("ctx.attach: an invocation can't wait for its own end")
    return Call(execution, UNATTACHED, _reader(execution, invocation_id, codec), invocation_id)


def request_attachment(execution: Execution, invocation_id: str) -> int:
    """Journal that the handler waits for an invocation; return the index of the wait."""
    is_new = not execution.replay.replaying
    wait_id = execution.world.ids.new("prom") if is_new else ""
    index, asked = execution.ask(AttachRequested(id=invocation_id, wait=wait_id))
    if is_new and index != NOWHERE:
        execution.new_awakeables.append(NewAwakeable(id=asked.wait, source=invocation_id))
    execution.waits[index] = AwakeableWait(index=index, awakeable_id=asked.wait)
    return index


def _handler(execution: Execution, function: Callable[..., Any], what: str) -> Handler:
    try:
        return execution.find(function)
    except NotFound as error:
        raise execution.misuse(
            f"{what}: {error}; pass the function itself, as it was declared with @service.handler()"
        ) from None


def _object_key(execution: Execution, handler: Handler, key: object, what: str) -> str | None:
    """The key that a handler is called for."""
    where = f"{what}({handler.service}/{handler.name})"
    if not handler.keyed:
        if key is not None:
            raise execution.misuse(
                f"{where}: it is a handler of a service, which has no keys; leave out key="
            )
        return None
    problem = key_problem(key)
    if problem is not None:
        raise execution.misuse(f"{where}: it is a handler of an object: pass key=…; {problem}")
    return str(key)


def key_problem(key: object) -> str | None:
    """What is wrong with the key of an object; None: nothing."""
    if not isinstance(key, str):
        return f"a key is a string, not {excerpt(key)}"
    try:
        length = len(key.encode())
    except UnicodeEncodeError as error:
        return f"a key must be valid UTF-8: {error}"
    if not 0 < length <= LONGEST_OBJECT_KEY:
        return f"a key has 1 to {LONGEST_OBJECT_KEY:,} bytes of UTF-8, not {length:,}"
    return None


def _checked_key(execution: Execution, key: object, what: str) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY:
        raise execution.misuse(
            f"{what}: an idempotency key is a string of 1 to {LONGEST_KEY} characters, not {excerpt(key)}"
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise execution.misuse(
            f"{what}: an idempotency key that can't be encoded as UTF-8 can't be journaled: {error}"
        ) from None
    return key


def _input(
    execution: Execution, op: CallRequested | SendRequested, handler: Handler, given: Any
) -> bytes | None:
    """The input as it is journaled; in replay nothing is checked again, but what was refused is refused.

    Raises:
        TerminalError: It does not fit the handler (code 422), or calls are nested too deep (508).
    """
    execution.check()
    refused = CallRefused(service=handler.service, handler=handler.name, reason="", code=0)
    if execution.replay.replaying:
        if not execution.replay.expects(refused):
            return None
        _, recorded = execution.ask(refused)
        raise TerminalError(recorded.reason, code=recorded.code)
    try:
        if isinstance(op, CallRequested):
            _check_depth(execution, op)
        return checked_input(handler, given)
    except TerminalError as error:
        execution.ask(replace(refused, reason=error.reason, code=error.code))
        raise


def _check_depth(execution: Execution, op: CallRequested) -> None:
    if execution.replay.input.depth >= MAX_DEPTH:
        raise TerminalError(
            f"{op.service}/{op.handler} is not called: calls are nested {MAX_DEPTH} deep", code=508
        )


def _exclusive_callers(execution: Execution) -> tuple[str, ...]:
    """Those of this invocation and the ones that wait for it which hold a key, the outermost first."""
    callers = execution.replay.input.callers
    return (*callers, execution.invocation_id) if execution.exclusive else callers


def checked_input(handler: Handler, given: Any) -> bytes | None:
    """An input as it is journaled.

    Raises:
        TerminalError: It does not fit the handler (code 422), or is too large (413).
    """
    where = f"{handler.service}/{handler.name}"
    if given is NO_INPUT:
        content = None
    elif not handler.takes_input:
        raise TerminalError(f"{where} takes no input, and was given one", code=422)
    else:
        codec = codec_of_value(given) if handler.input.unanswerable else handler.input
        try:
            content = codec.answer(given).content
        except Exception as error:  # a user's serializer may raise anything
            raise TerminalError(f"the input does not fit {where}: {explain(error)}", code=422) from error
    try:
        content = handler.accept(content)
    except InvalidInput as error:
        raise TerminalError(str(error), code=422) from error
    if content is not None and len(content) > MAX_INPUT_BYTES:
        raise TerminalError(
            f"the input of {where} has {len(content):,} bytes; at most {MAX_INPUT_BYTES:,}", code=413
        )
    return content


def written_input(handler: Handler, content: bytes | None) -> tuple[Raw | UnsetType, bytes | UnsetType]:
    """The `value` and `value_base64` of an input in the journal; without an input, neither."""
    if content is None:
        return UNSET, UNSET
    return (Raw(content), UNSET) if handler.input.kind == "json" else (UNSET, content)


def _new_call(
    execution: Execution,
    asked: CallRequested | SendRequested,
    handler: Handler,
    content: bytes | None,
    headers: Mapping[str, str],
    *,
    delay_ms: int = 0,
) -> NewCall:
    world = execution.world
    value, value_base64 = written_input(handler, content)
    waits = isinstance(asked, CallRequested)
    callers = _exclusive_callers(execution) if waits else ()
    given = Input(
        service=handler.service,
        handler=handler.name,
        key=asked.key,
        value=value,
        value_base64=value_base64,
        seed=world.ids.seed(),
        at_ms=world.clock.now_ms(),
        headers=dict(headers),
        caller=execution.invocation_id,
        depth=execution.replay.input.depth + 1 if waits else 0,
        callers=callers,
        version=handler.version,
    )
    workflow = workflow_of(handler, asked.key)
    idempotency = run_key(workflow, asked.key, content)
    if asked.idempotency_key is not None:
        idempotency = Idempotency(
            scope=idempotency_scope(handler.service, handler.name, asked.key),
            key=asked.idempotency_key,
            fingerprint=hashlib.sha256(content or b"").hexdigest(),
        )
    return NewCall(
        id=asked.id,
        service=handler.service,
        handler=handler.name,
        chunk=beginning(given, handler, workflow),
        delay_ms=delay_ms,
        idempotency=idempotency,
        key=asked.key,
        queue=Queue(most=handler.max_queue if waits else None, callers=callers)
        if handler.exclusive
        else None,
        workflow=workflow,
        versions=handler.versions,
    )


def _reader(execution: Execution, invocation_id: str, codec: Codec[Any]) -> Callable[[Outcome], Any]:
    def read(outcome: Outcome) -> Any:
        if isinstance(outcome, Cancellation):
            raise Cancelled(f"invocation {invocation_id} was cancelled: {outcome.reason}")
        if not isinstance(outcome, Resolution):
            raise_terminal(outcome)
        try:
            return codec.load_written(outcome.content)
        except BaseException as error:
            raise execution.unfit(f"the result of invocation {invocation_id}", error) from None

    return read
