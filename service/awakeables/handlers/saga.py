"""Blocks that a cancellation does not interrupt, and undoing what was done."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVarTuple, Unpack

from awakeables.core.texts import excerpt
from awakeables.errors import Cancelled, TerminalError
from awakeables.handlers.retry import RetryPolicy

if TYPE_CHECKING:
    from awakeables.handlers.context import Context
    from awakeables.handlers.execution import Execution

Args = TypeVarTuple("Args")


class Shield:
    """What `ctx.shield` returns: a block in which the invocation's own cancellation is not raised."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    async def __aenter__(self) -> None:
        self._execution.check()
        self._execution.shield(1)

    async def __aexit__(self, *_: object) -> None:
        self._execution.shield(-1)


class _Undo(NamedTuple):
    name: str
    action: Callable[..., Any]
    args: tuple[Any, ...]
    retry: RetryPolicy | None


class Saga:
    """What `ctx.saga` returns: a block whose steps are undone if it fails.

    If the block is left with a `TerminalError`, or by the invocation's own cancellation, the undos are run,
    the last one first, each as a `ctx.run` of its name, shielded from cancellation and time limits. Then the
    error is raised again. Any other exception fails the attempt, which is retried: nothing is undone then.
    """

    def __init__(self, context: Context, execution: Execution) -> None:
        self._context = context
        self._execution = execution
        self._undos: list[_Undo] = []
        self._open = False

    def undo(
        self,
        name: str,
        action: Callable[[Unpack[Args]], Any],
        *args: *Args,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Say how to undo a step; say it before the step, which may have happened although it failed.

        Args:
            name: The name of the undo, as of `ctx.run`.
            action: What undoes the step, also if it did not happen; as of `ctx.run`.
            args: Its arguments.
            retry: As of `ctx.run`: without it, an undo that fails is tried again until it succeeds or the
                invocation is paused; with it, one that has failed for the last time is passed over. A
                `TerminalError` is, too. What was passed over is in `details["not_undone"]` of the error that
                is raised again; after a cancellation of the invocation it is in the log.
        """
        if not self._open:
            raise self._execution.misuse(f"saga.undo({excerpt(name)}) outside `async with ctx.saga()`")
        self._undos.append(_Undo(name, action, args, retry))

    async def __aenter__(self) -> Saga:
        self._execution.check()
        self._open = True
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> Literal[False]:
        self._open = False
        undos, self._undos = self._undos, []
        if not isinstance(error, TerminalError) or not undos:
            return False
        async with Shield(self._execution):
            failed = await self._undo_all(undos)
        if failed and isinstance(error, Cancelled) and error.own:  # which ends the invocation without details
            self._context.log.warning("not_undone", undos=failed)
        elif failed:
            raise _with_not_undone(error, failed) from error
        return False

    async def _undo_all(self, undos: list[_Undo]) -> list[dict[str, Any]]:
        """Undo the last step first, whatever time limits the block is in; return what was passed over."""
        failed: list[dict[str, Any]] = []
        limits, self._execution.scopes = self._execution.scopes, []
        try:
            for undo in reversed(undos):
                try:
                    await self._context.run(undo.name, undo.action, *undo.args, retry=undo.retry)
                except TerminalError as why:
                    failed.append({"name": undo.name, "reason": why.reason, "code": why.code})
        finally:
            self._execution.scopes = limits
        return failed


def _with_not_undone(error: TerminalError, failed: list[dict[str, Any]]) -> TerminalError:
    """The same error with what was not undone, after what an inner block has not undone."""
    given = error.details
    details = given if isinstance(given, dict) else {} if given is None else {"details": given}
    earlier = details.get("not_undone")
    changed = type(error).__new__(type(error), *error.args)
    changed.__dict__.update(error.__dict__)
    changed.details = {**details, "not_undone": [*(earlier if isinstance(earlier, list) else []), *failed]}
    return changed
