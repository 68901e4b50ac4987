"""What comes of answers that are late: a handler that is begun with them, or a dead letter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from awakeables.core.awakeables import LATE_LETTER
from awakeables.core.texts import excerpt
from awakeables.core.versions import target
from awakeables.errors import NotFound
from awakeables.handlers.execution import Execution
from awakeables.handlers.serde import Codec

if TYPE_CHECKING:
    from awakeables.handlers.context import Context

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Late(Generic[T]):
    """An answer that came when nobody waited for it any more: the input of a handler given as `on_late=`.

    Attributes:
        value: The answer; it was checked against the awakeable's type.
        awakeable_id: The awakeable.
        invocation_id: The invocation that had created it; it may have ended.
        state: Why nobody waited.
        worker: Who answered, if the worker said so.
        at: When the answer came; in UTC.
    """

    value: T
    awakeable_id: str
    invocation_id: str
    state: Literal["timed-out", "cancelled"]
    at: datetime
    worker: str | None = None


OnLate: TypeAlias = Literal["dead-letter"] | Callable[["Context", Late[T]], Awaitable[Any]] | None
"""What else comes of a late answer: nothing, a dead letter, or a handler is begun with it."""


def target_of(execution: Execution, on_late: Any, codec: Codec[Any]) -> str | None:
    """What becomes of late answers, as it is stored.

    Raises:
        HandlerMisuse: It can't become that.
    """
    if on_late in (None, LATE_LETTER):
        return None if on_late is None else LATE_LETTER
    where = "ctx.awakeable: on_late"
    if not callable(on_late):
        raise execution.misuse(f"{where} is 'dead-letter' or a handler, not {excerpt(on_late)}")
    try:
        handler = execution.find(on_late)
    except NotFound as error:
        raise execution.misuse(
            f"{where}: {error}; pass a function declared with @service.handler()"
        ) from None
    where = f"{where}={handler.service}/{handler.name}"
    if handler.keyed:
        raise execution.misuse(f"{where}: it is called for a key, and a late answer has none; use a Service")
    if not handler.takes_input:
        raise execution.misuse(f"{where}: it must take the answer: (ctx: Context, late: Late[…])")
    if codec.kind != "json":
        raise execution.misuse(f"{where}: only JSON can be handed to a handler; use on_late='dead-letter'")
    return target(handler.service, handler.name, handler.version)
