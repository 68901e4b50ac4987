"""What the rows of a store need of the app's code."""

from __future__ import annotations

from typing import NamedTuple

from awakeables.core.versions import OpenInvocations


class CodeUsage(NamedTuple):
    """What the rows of a store need of the app's code.

    Attributes:
        open: The invocations that have not ended, by their handlers and versions.
        subscribed: How many partitions were read, by the name of the subscription and the topic.
    """

    open: tuple[OpenInvocations, ...]
    subscribed: dict[tuple[str, str], int]
