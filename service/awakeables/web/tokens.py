"""Bearer tokens: who holds a token, according to a file that is read again when it changes.

So a leaked token can be revoked, and a token replaced, without restarting a service that has
handlers in memory and calls waiting.
"""

from __future__ import annotations

import hashlib
import hmac
import stat
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

import structlog

from awakeables.ports import Clock
from awakeables.telemetry import events
from awakeables.web.tokenfile import Holder, TokensRefused, parse_tokens

log = structlog.stdlib.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
LARGEST_BYTES: Final = 1024 * 1024
"""Thousands of tokens. A larger file, such as a log or a store, is a mistake in the setting."""

LOOSE: Final = stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH
"""Permissions that are warned of: who can write the file can let anybody in."""

_Stamp = tuple[int, int, int]


class Tokens:
    """The tokens that open the HTTP interface.

    A change that can't be read (or a file that is gone) leaves the tokens as they were; readiness
    reports it as degraded, `tokens`, until it is fixed.
    """

    def __init__(self, path: Path, *, clock: Clock, problems: MutableMapping[str, str]) -> None:
        """Read the file for the first time.

        Args:
            path: The tokens file.
            clock: Says when to look again.
            problems: The readiness board.

        Raises:
            TokensRefused: It can't be read or is not a tokens file.
        """
        self._path = path
        self._clock = clock
        self._problems = problems
        self._holders: tuple[Holder, ...] = ()
        self._read(self._look())
        self._looked_s = clock.monotonic()

    def refresh(self) -> None:
        """Read the file again if it has changed; looks at most once a second."""
        now_s = self._clock.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._read(stamp)
                log.info(events.TOKENS_READ, path=str(self._path), tokens=len(self._holders))
        except TokensRefused as error:
            # The stamp stays as it was, so that the file is read again until it is right.
            self._report(str(error))
        else:
            self._problems.pop("tokens", None)

    def holder(self, token: bytes) -> Holder | None:
        """Who holds this token; None: nobody.

        All digests are compared, each in constant time, so that the time reveals nothing about
        any of them.
        """
        digest = hashlib.sha256(token).digest()
        found = None
        for holder in self._holders:
            for known in holder.digests:
                if hmac.compare_digest(digest, known):
                    found = holder
        return found

    def _look(self) -> _Stamp:
        try:
            status = self._path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        if not stat.S_ISREG(status.st_mode):
            raise TokensRefused(f"{self._path} is no file; AWAKEABLES_TOKENS_FILE names the tokens file")
        if status.st_size > LARGEST_BYTES:
            raise TokensRefused(f"{self._path} has {status.st_size:,} bytes; that is no tokens file")
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self, stamp: _Stamp) -> None:
        try:
            content = self._path.read_bytes()
            mode = self._path.stat().st_mode
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            self._holders = parse_tokens(content)
        except TokensRefused as error:
            raise TokensRefused(f"the tokens file {self._path} can't be taken: {error}") from None
        self._stamp = stamp
        if mode & LOOSE:
            log.warning(
                events.TOKENS_LOOSE, path=str(self._path), mode=f"{stat.S_IMODE(mode):o}", better="640"
            )

    def _report(self, problem: str) -> None:
        if self._problems.get("tokens") != problem:
            log.error(events.TOKENS_REFUSED, error=problem, effect="the tokens from before are still good")
            self._problems["tokens"] = problem

    def _unreadable(self, error: OSError) -> TokensRefused:
        return TokensRefused(f"the tokens file {self._path} can't be read: {error.strerror or error}")
