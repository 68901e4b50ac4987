"""The state of a virtual object's key: declared names, and reading and writing them in a handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any, Generic, TypeVar, cast

from awakeables.core.journal import StateCleared, StateNamesRead, StateRead, StateSet
from awakeables.core.jsontext import decode_json
from awakeables.core.objects import StateWrite
from awakeables.core.outcomes import ABSENT, Outcome, Resolution, encode_outcome
from awakeables.core.texts import excerpt
from awakeables.errors import DeclarationError, TerminalError
from awakeables.handlers.attempt import StateWait
from awakeables.handlers.execution import NOWHERE, Durable, Execution, raise_terminal
from awakeables.handlers.serde import Codec, codec_for, explain

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_VALUE_BYTES = 1024 * 1024
MAX_NAME_BYTES = 255

NO_DEFAULT: Any = object()


class Declared(Generic[T_co]):
    """A name that an object or a workflow declares, with the type of its values."""

    def __init__(self, of: str, name: str, codec: Codec[Any]) -> None:
        self._of = of
        self._name = name
        self._codec = codec

    @property
    def name(self) -> str:
        """The name under which it is stored."""
        return self._name

    @property
    def of(self) -> str:
        """The object or workflow that declares it."""
        return self._of

    @property
    def codec(self) -> Codec[Any]:
        """How its values are written and read."""
        return self._codec


class Readable(Declared[T_co], Generic[T_co]):
    """A name in the state of an object's keys, as `ctx.get` takes it."""

    def __init__(self, of: str, name: str, codec: Codec[Any], default: Any) -> None:
        super().__init__(of, name, codec)
        self._default = default

    def __repr__(self) -> str:
        return f"<state {self._name!r} of {self._of}>"


class State(Readable[T], Generic[T]):
    """A typed name in the state of each key of an object; declare it with `VirtualObject.state`.

    `SEEN[order_id]` is a name of its own with the same type, `seen/<order_id>`: a family of names.
    """

    def __getitem__(self, part: str) -> State[T]:
        """One of a family of names.

        Raises:
            TerminalError: The text in brackets is empty, too long, or can't be encoded as UTF-8 (code 422).
        """
        if not isinstance(part, str):
            raise DeclarationError(
                f"{self._name}[…]: what is in brackets must be a string, not {excerpt(part)}"
            )
        try:
            name = checked_name(f"{self._name}/{part}" if part else "")
        except DeclarationError as error:
            raise TerminalError(str(error), code=422) from None
        return State(self._of, name, self._codec, self._default)


def declared(of: str, name: str, type_: Any, default: Any) -> State[Any]:
    """Declare a name of an object's state.

    Raises:
        DeclarationError: The name or the type can't be used.
    """
    where = f"state {name!r} of {of}"
    if not isinstance(name, str) or not name or "/" in name:
        raise DeclarationError(
            f"{of}: the name of a state is a string without '/', not {excerpt(name)}; for a family of names, "
            "declare one and index it: SEEN[order_id]"
        )
    try:
        codec = codec_for(type_)
    except TypeError as error:
        raise DeclarationError(f"{where}: {error}") from error
    if codec.unwritable is not None:
        raise DeclarationError(f"{where} can't be stored: {codec.unwritable}")
    if default is not NO_DEFAULT and not callable(default):
        try:
            codec.resolution(default)
        except Exception as error:  # the user's serializer may raise anything
            raise DeclarationError(f"{where}: its default does not fit its type: {explain(error)}") from error
    return State(of, checked_name(name), codec, default)


def checked_name(name: str) -> str:
    """A name, if it can be stored.

    Raises:
        DeclarationError: It is empty, can't be encoded as UTF-8, or is too long.
    """
    if not name:
        raise DeclarationError("the name of a state can't be empty")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise DeclarationError(
            f"the name of a state {excerpt(name)} can't be encoded as UTF-8: {error}"
        ) from None
    if length > MAX_NAME_BYTES:
        raise DeclarationError(
            f"the name of a state {excerpt(name)} has {length:,} bytes; at most {MAX_NAME_BYTES}"
        )
    return name


def get(execution: Execution, state: Readable[T]) -> Durable[T]:
    """Read a value: what this handler has set or read before, or else what is stored."""
    name = _name_of(execution, state, "ctx.get")
    index = _known(execution, name) if execution.exclusive else None
    if index is None:
        index, _ = execution.ask(StateRead(name=name))
        execution.waits[index] = _wait(execution, index, name)
        execution.unawaited[index] = f"ctx.get({name!r})"
        if execution.exclusive and index != NOWHERE:
            execution.known.setdefault(name, []).append(index)
    else:
        execution.check()
    codec, default = state._codec, state._default

    def read(outcome: Outcome) -> T:
        if not isinstance(outcome, Resolution):
            raise_terminal(outcome)
        if outcome.is_absent:
            value: T = _default_of(default)
            return value
        try:
            return cast("T", codec.load_written(outcome.content))
        except BaseException as error:
            raise execution.unfit(f"the state {name!r} of {_where(execution)}", error) from None

    return Durable(execution, index, read)


def names(execution: Execution) -> Durable[Sequence[str]]:
    """Read the names that are stored."""
    index, _ = execution.ask(StateNamesRead())
    execution.waits[index] = _wait(execution, index, None)
    execution.unawaited[index] = "ctx.keys()"

    def read(outcome: Outcome) -> Sequence[str]:
        if not isinstance(outcome, Resolution):
            raise_terminal(outcome)
        # What this handler has set and cleared by now may or may not have been stored when they were read.
        stored = set() if CLEARED in execution.known else set(decode_json(outcome.content))
        for name, places in execution.known.items():
            entry = execution.replay.entries[places[-1]]
            if isinstance(entry, StateSet):
                stored.add(name)
            elif isinstance(entry, StateCleared):
                stored.discard(name)
        return sorted(stored)

    return Durable(execution, index, read)


CLEARED = ""
"""Stands for all names that are not known otherwise, once the state was cleared; no name is empty."""


def put(execution: Execution, state: State[T], value: T) -> None:
    """Set a value."""
    name = _name_of(execution, state, "ctx.set")
    _check_exclusive(execution, f"ctx.set({name!r})")
    try:
        given = state._codec.resolution(value)
    except BaseException as error:  # the user's serializers and validators may raise anything
        raise execution.misuse(
            f"ctx.set({name!r}): the value does not fit its type: {explain(error)}"
        ) from error
    size = len(given.content)
    if size > MAX_VALUE_BYTES:
        raise execution.misuse(
            f"ctx.set({name!r}): the value has {size:,} bytes; at most {MAX_VALUE_BYTES:,} can be kept under "
            "one name"
        )
    op = StateSet(name=name, value=given.value, value_base64=given.value_base64)
    is_new = not execution.replay.replaying
    index, asked = execution.ask(op)
    if index == NOWHERE:
        return
    kept = Resolution(value=asked.value, value_base64=asked.value_base64)
    if is_new:
        execution.new_writes.append(StateWrite(name=name, value=encode_outcome(kept)))
    _note(execution, name, index, kept)


def clear(execution: Execution, state: State[Any] | None) -> None:
    """Clear a name, or all of them."""
    name = None if state is None else _name_of(execution, state, "ctx.clear")
    _check_exclusive(execution, "ctx.clear")
    is_new = not execution.replay.replaying
    index, _ = execution.ask(StateCleared(name=name))
    if index == NOWHERE:
        return
    if is_new:
        execution.new_writes.append(StateWrite(name=name))
    if name is not None:
        _note(execution, name, index, ABSENT)
        return
    earlier = [at for places in execution.known.values() for at in places]
    execution.known = {CLEARED: [index]}
    _receive(execution, index, ABSENT, earlier, None)


def _note(execution: Execution, name: str, index: int, value: Resolution) -> None:
    """Note what a name stands for now."""
    earlier = execution.known.get(name, ())
    execution.known[name] = [index]
    _receive(execution, index, value, earlier, name)


def _receive(
    execution: Execution, index: int, value: Resolution, earlier: Iterable[int], name: str | None
) -> None:
    """Receive what was set here; reads that have not been answered yet are answered with that.

    So are those that have been, of branches that have not gone on since: they would set what they read.
    """
    replay = execution.replay
    replay.receive(index, value)
    for at in earlier:
        if at not in replay.outcomes:
            execution.receive_here(at, value)
    if execution.branches is not None:
        for at in execution.branches.next_to_read():
            entry = replay.entries[at]
            if isinstance(entry, StateRead) and name in (None, entry.name):
                replay.outcomes[at] = value


def _known(execution: Execution, name: str) -> int | None:
    """The operation whose outcome is the value; None: it must be read."""
    outcomes = execution.replay.outcomes
    for places in (execution.known.get(name, ()), execution.known.get(CLEARED, ())):
        for index in places:
            if isinstance(outcomes.get(index), Resolution):
                return index
    return None


def _name_of(execution: Execution, state: object, what: str) -> str:
    if not isinstance(state, Readable):
        raise execution.misuse(
            f"{what} takes what {_service(execution)}.state(…) returned, not {excerpt(state)}"
        )
    if state._of != _service(execution):
        raise execution.misuse(
            f"{what}: the state {state.name!r} was declared by {state._of!r}; a handler of "
            f"{_service(execution)!r} can't use it: call a handler of {state._of!r} instead"
        )
    return state.name


def _check_exclusive(execution: Execution, what: str) -> None:
    if not execution.exclusive:
        raise execution.misuse(
            f"{what}: this invocation began when its handler was shared, so it does not hold its key and "
            "can't write: cancel or kill it, and call the handler again"
        )


def _wait(execution: Execution, index: int, name: str | None) -> StateWait:
    return StateWait(
        index=index, service=_service(execution), key=execution.replay.input.key or "", name=name
    )


def _service(execution: Execution) -> str:
    return execution.replay.input.service


def _where(execution: Execution) -> str:
    return f"{_service(execution)}/{execution.replay.input.key}"


def _default_of(default: T | Callable[[], T]) -> T:
    """The value of a name that stands for nothing: a fresh one each time, as the handler may change it."""
    if default is NO_DEFAULT:
        return None  # type: ignore[return-value]  # then the state is declared as `T | None`
    return default() if callable(default) else deepcopy(default)
