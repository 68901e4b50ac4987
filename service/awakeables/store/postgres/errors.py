"""Sorts the driver's errors: unreachable, permanently refused, or to be retried."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg
import msgspec

from awakeables.errors import AwakeablesError, StoreRefused, StoreUnavailable

TRIED_AGAIN: Final = (
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
    "57014",  # query_canceled: statement_timeout
)
"""SQLSTATEs after which nothing has happened, and the same may succeed at once."""

REFUSED: Final = ("22", "23", "54")
"""Classes of SQLSTATEs that the data cause: malformed, against a constraint, beyond a limit."""

LOST: Final = ("08", "25006", "57P01", "57P02", "57P03")
"""SQLSTATEs after which the server is another one, or will be: cut, read-only, shut down."""

OF_NO_USE: Final = (*LOST, "53", "57P05", "25P03")
"""SQLSTATEs after which a connection is of no use: those, out of resources, idle for too long."""

STALE: Final = "22012"
"""Division by zero: how the write says that a row is not as it was loaded."""

EXISTS: Final = "23505"
"""Unique violation: a row that should be new exists."""


def sqlstate(error: BaseException) -> str:
    """The error's SQLSTATE; empty: it is not the server's."""
    return str(getattr(error, "sqlstate", "") or "") if isinstance(error, asyncpg.PostgresError) else ""


def is_tried_again(error: BaseException) -> bool:
    return sqlstate(error) in TRIED_AGAIN


def breaks_connection(error: BaseException) -> bool:
    """Whether the connection must be thrown away."""
    if isinstance(error, AwakeablesError | msgspec.MsgspecError):
        return False  # nothing of the driver's: what was read can't be decoded, for example
    state = sqlstate(error)
    return not state or state.startswith(OF_NO_USE)


def is_lost(error: BaseException) -> bool:
    """Whether a connection broke because the server, or the way to it, did."""
    return isinstance(error, OSError | asyncio.TimeoutError) or sqlstate(error).startswith(LOST)


def translated(error: BaseException, where: str) -> BaseException:
    """The error that the ports promise in place of the driver's; any other error is left as it is."""
    state = sqlstate(error)
    promised: Exception
    if state.startswith(REFUSED):
        promised = StoreRefused(f"{where} can't hold this data: {error}")
    elif isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        promised = StoreUnavailable(f"{where}: {_told(error)}{_advice(state)}")
    elif isinstance(error, asyncio.TimeoutError):
        promised = StoreUnavailable(f"{where}: no answer in time")
    elif isinstance(error, OSError):
        promised = StoreUnavailable(f"{where}: {_told(error)}; is PostgreSQL running there?")
    else:
        return error
    promised.__cause__ = error
    return promised


def _told(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _advice(state: str) -> str:
    if state in {"28P01", "28000"}:
        return "; check user and password in the store's URL, and pg_hba.conf"
    if state == "3D000":
        return "; create the database, its tables are made at the first start"
    if state == "25006":
        return "; it is a standby: name all hosts in the store's URL"
    if state == "53300":
        return "; raise max_connections, a service needs 6"
    if state == "53100":
        return "; free some space, and waiting work continues by itself"
    if state == "42501":
        return "; its user must own the schema `awakeables`, or may create it"
    return ""
