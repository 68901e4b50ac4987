"""The timeline on the terminal: what happened when, and whether it is what was promised."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

T = TypeVar("T")

WHO_WIDTH = 9
POLL_S = 0.05


class StepFailed(Exception):
    """Something that was promised did not happen."""


class Timeline:
    """Prints lines with the seconds since the start, and counts the checks that held."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.checks = 0
        self._began_s = time.monotonic()

    def chapter(self, title: str) -> None:
        self.console.print(f"\n[bold]{escape(title)}[/bold]")

    def show(self, who: str, what: str, *, style: str = "") -> None:
        elapsed = f"{time.monotonic() - self._began_s:6.1f} s"
        words = f"[{style}]{escape(what)}[/]" if style else escape(what)
        self.console.print(f"[dim]{elapsed}[/dim]  [cyan]{who:<{WHO_WIDTH}}[/cyan] {words}", soft_wrap=True)

    def check(self, claim: str, holds: object, *, found: object = "") -> None:
        """State what must be so.

        Raises:
            StepFailed: It is not.
        """
        if not holds:
            raise StepFailed(f"not so: {claim}" + (f"; found {found!r}" if found != "" else ""))
        self.checks += 1
        self.show("", f"✓ {claim}", style="green")

    async def until(self, claim: str, probe: Callable[[], Awaitable[T | None]], *, within_s: float = 20) -> T:
        """Wait until the probe returns something true, and return that.

        Raises:
            StepFailed: It did not in time.
        """
        end_s = time.monotonic() + within_s
        while True:
            found = await probe()
            if found:
                return found
            if time.monotonic() > end_s:
                raise StepFailed(f"not within {within_s:.0f} s: {claim}")
            await asyncio.sleep(POLL_S)
