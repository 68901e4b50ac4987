"""Bearer tokens, from a file that is reloaded when it changes.

So a token can be revoked or replaced without restarting a service that has handlers in memory and
calls waiting.
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

CHECK_INTERVAL_S: Final = 1.0
LARGEST_BYTES: Final = 1024 * 1024
"""Room for thousands of tokens. A larger file, such as a log or a store, means that the setting is wrong."""

LOOSE: Final = stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH
"""Permissions that cause a warning: anyone who can write the file can grant access."""

_Stamp = tuple[int, int, int]


class Tokens:
    """The tokens that the HTTP interface accepts.

    If a changed file can't be read, or is gone, the previous tokens stay valid, and readiness reports
    `tokens` as degraded until it is fixed.
    """

    def __init__(self, path: Path, *, clock: Clock, problems: MutableMapping[str, str]) -> None:
        """Load the file.

        Args:
            path: The tokens file.
            clock: Decides when to check the file again.
            problems: The readiness board.

        Raises:
            TokensRefused: The file can't be read or is invalid.
        """
        self._path = path
        self._clock = clock
        self._problems = problems
        self._holders: tuple[Holder, ...] = ()
        self._load(self._stat())
        self._checked_s = clock.monotonic()

    def refresh(self) -> None:
        """Reload the file if it has changed; checked at most once a second."""
        now_s = self._clock.monotonic()
        if now_s - self._checked_s < CHECK_INTERVAL_S:
            return
        self._checked_s = now_s
        try:
            stamp = self._stat()
            if stamp != self._stamp:
                self._load(stamp)
                log.info(events.TOKENS_READ, path=str(self._path), tokens=len(self._holders))
        except TokensRefused as error:
            # The stamp is kept, so that the file is loaded again until it is valid.
            self._report(str(error))
        else:
            self._problems.pop("tokens", None)

    def holder(self, token: bytes) -> Holder | None:
        """Return the holder of this token, or None.

        All digests are compared, each in constant time, so that timing reveals nothing about any.
        """
        digest = hashlib.sha256(token).digest()
        found = None
        for holder in self._holders:
            for known in holder.digests:
                if hmac.compare_digest(digest, known):
                    found = holder
        return found

    def _stat(self) -> _Stamp:
        try:
            status = self._path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        if not stat.S_ISREG(status.st_mode):
            raise TokensRefused(
                f"{self._path} is not a file; AWAKEABLES_TOKENS_FILE must name the tokens file"
            )
        if status.st_size > LARGEST_BYTES:
            raise TokensRefused(f"{self._path} has {status.st_size:,} bytes; that is not a tokens file")
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _load(self, stamp: _Stamp) -> None:
        try:
            content = self._path.read_bytes()
            mode = self._path.stat().st_mode
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            self._holders = parse_tokens(content)
        except TokensRefused as error:
            raise TokensRefused(f"the tokens file {self._path} is invalid: {error}") from None
        self._stamp = stamp
        if mode & LOOSE:
            log.warning(
                events.TOKENS_LOOSE, path=str(self._path), mode=f"{stat.S_IMODE(mode):o}", better="640"
            )

    def _report(self, problem: str) -> None:
        if self._problems.get("tokens") != problem:
            log.error(events.TOKENS_REFUSED, error=problem, effect="the previous tokens stay valid")
            self._problems["tokens"] = problem

    def _unreadable(self, error: OSError) -> TokensRefused:
        return TokensRefused(f"the tokens file {self._path} can't be read: {error.strerror or error}")
