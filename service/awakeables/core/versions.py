"""Which versions of the code invocations have: kept in their rows, so that they can be counted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from awakeables.core.records import Record


class Versions(Record):
    """What an invocation needs of the code, to go on.

    Attributes:
        handler: The version of its handler.
        markers: The versions of parts of the handler's code that its journal records, by name.
    """

    handler: int = 1
    markers: dict[str, int] = {}


FIRST = Versions()
"""Those of an invocation whose row names none."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Versions).decode


def first_versions(handler: int, markers: Mapping[str, int] | None = None) -> Versions | None:
    """The versions that a row is created with; None: it names none."""
    return Versions(handler=handler, markers=dict(markers or {})) if markers or handler != 1 else None


def versions_bytes(versions: Versions | None) -> bytes | None:
    """As they are kept in a row."""
    return None if versions is None else _encode(versions)


def versions_from(content: bytes | None) -> Versions:
    """The versions of a row."""
    return FIRST if content is None else _decode(content)


def with_markers(content: bytes | None, markers: Mapping[str, int]) -> bytes:
    """The versions of a row, with markers that its journal has got since."""
    known = versions_from(content)
    return _encode(replace(known, markers=known.markers | dict(markers)))


def target(service: str, handler: str, version: int = 1) -> str:
    """What an instance serves: a handler, and from version 2 on which of its versions."""
    return f"{service}/{handler}" if version == 1 else f"{service}/{handler}@{version}"


def parsed_target(text: str) -> tuple[str, str, int]:
    """The service, the handler and the version that `target` has written."""
    service, _, handler = text.partition("/")
    name, _, version = handler.partition("@")
    return service, name, int(version or 1)


class OpenInvocations(Record):
    """The open invocations of a handler that have the same versions.

    Attributes:
        oldest_ms: When the oldest of them was created.
    """

    service: str
    handler: str
    versions: Versions
    count: int
    oldest_ms: int


VersionState: TypeAlias = Literal["current", "needed", "unused", "missing", "unasked"]
"""`current`: new invocations begin with it. `needed` and `unused`: open ones have it, or none has. `missing`:
open ones have a version of the handler that the code has not. `unasked`: these have no version of the marker
yet."""


class VersionUse(Record):
    """How many open invocations have a version of a handler, or of a part of its code.

    Attributes:
        version: The version of the handler.
        marker: The name of the part; None: it is the handler itself.
        marker_version: The version of the part; None: those that have not asked for it yet.
        oldest_ms: When the oldest of them was created.
    """

    service: str
    handler: str
    version: int
    open: int
    state: VersionState
    marker: str | None = None
    marker_version: int | None = None
    oldest_ms: int | None = None


HandlerName: TypeAlias = tuple[str, str]
"""A service and one of its handlers."""


def versions_in_use(
    declared: Mapping[HandlerName, Collection[int]], found: Iterable[OpenInvocations]
) -> list[VersionUse]:
    """How many open invocations have which version: of each handler, and of each part that is asked for.

    Args:
        declared: The versions of each handler that the code has.
        found: The open invocations.
    """
    groups: dict[HandlerName, dict[int, list[OpenInvocations]]] = {
        place: {version: [] for version in versions} for place, versions in declared.items()
    }
    for each in found:
        versions = groups.setdefault((each.service, each.handler), {})
        versions.setdefault(each.versions.handler, []).append(each)
    uses: list[VersionUse] = []
    for place, versions in sorted(groups.items()):
        known = declared.get(place, ())
        for version, some in sorted(versions.items()):
            if version not in known:
                state: VersionState = "missing"
            elif version == max(known):
                state = "current"
            else:
                state = "needed" if some else "unused"
            uses.append(_use(place, version, some, state))
            uses += _markers(place, version, some)
    return uses


def _markers(place: HandlerName, version: int, some: Collection[OpenInvocations]) -> Iterator[VersionUse]:
    for name in sorted({name for each in some for name in each.versions.markers}):
        by_version: dict[int | None, list[OpenInvocations]] = {1: []}
        for each in some:
            by_version.setdefault(each.versions.markers.get(name), []).append(each)
        unasked = by_version.pop(None, None)
        for number, those in sorted(by_version.items(), key=lambda item: item[0] or 0):
            state: VersionState = "needed" if those else "unused"
            yield replace(_use(place, version, those, state), marker=name, marker_version=number)
        if unasked:
            yield replace(_use(place, version, unasked, "unasked"), marker=name)


def _use(
    place: HandlerName, version: int, some: Collection[OpenInvocations], state: VersionState
) -> VersionUse:
    return VersionUse(
        service=place[0],
        handler=place[1],
        version=version,
        open=sum(each.count for each in some),
        oldest_ms=min((each.oldest_ms for each in some), default=None),
        state=state,
    )
