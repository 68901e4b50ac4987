"""Whether the store's setting is a file or a PostgreSQL database."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

FORM = (
    "not postgresql://user:password@host:port/database; @ : / ? # and % in a password are written "
    "%40 %3A %2F %3F %23 and %25"
)


def is_postgres(store: str) -> bool:
    """Whether a store is the URL of a PostgreSQL database rather than a file."""
    return store.startswith(("postgresql://", "postgres://"))


def checked_store(store: str) -> str:
    """Return the store; a URL must have the form of one.

    Raises:
        ValueError: It does not. The message shows no part of it, which may be part of a password.
    """
    if is_postgres(store):
        try:
            parts = urlsplit(store)
        except ValueError:
            raise ValueError(FORM) from None
        user, _, hosts = parts.netloc.rpartition("@")
        ports = [host.rpartition(":")[2] for host in hosts.split(",") if ":" in host.rpartition("]")[2]]
        database = parts.path.removeprefix("/")
        if "@" in user or user.count(":") > 1 or not all(port.isdecimal() for port in ports):
            raise ValueError(FORM)
        if not database or "/" in database or parts.fragment:
            raise ValueError(FORM)
    return store


def shown_store(store: str) -> str:
    """The store for people and logs: a URL without password and parameters, since both may be secret."""
    if not is_postgres(store):
        return store
    parts = urlsplit(store)
    user, at, hosts = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{unquote(user.partition(':')[0])}{at}{hosts}{parts.path}"
