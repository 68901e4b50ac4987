"""Checks that the app's code has what the rows of the store need of it."""

from __future__ import annotations

from collections.abc import Iterator

from awakeables.core.versions import OpenInvocations, versions_in_use
from awakeables.doctor.findings import Finding
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.service import App
from awakeables.handlers.subscription import undeclared
from awakeables.store.usage import CodeUsage


def examine_code(app: App, usage: CodeUsage) -> Finding:
    """Look for handlers, versions and subscriptions that the store knows and the code does not have."""
    doubts = [*_handlers(app, usage.open), *_subscriptions(app, usage.subscribed)]
    if doubts:
        return Finding("code", "warn", "; ".join(doubts))
    return Finding("code", "ok", "it has every handler and subscription that the store needs")


def _handlers(app: App, found: tuple[OpenInvocations, ...]) -> Iterator[str]:
    for use in versions_in_use(app.versions, found):
        service = app.services.get(use.service)
        if isinstance(service, RemoteService) and not service.handlers:
            continue  # its function could not be asked
        if use.state == "missing":
            many = "open invocation of" if use.open == 1 else "open invocations of"
            yield (
                f"{use.open:,} {many} {use.service}/{use.handler}, version {use.version}, which is not in "
                "the code: they are paused when they go on; deploy that version again and resume them, or "
                "end them with `awakeables kill`"
            )


def _subscriptions(app: App, subscribed: dict[tuple[str, str], int]) -> Iterator[str]:
    for each in undeclared(app.subscriptions, subscribed):
        count = subscribed[each.name, each.topic]
        text = (
            f"no handler has the subscription {each.name} of {each.topic} any more, of which "
            f"{count} partition{'s were' if count != 1 else ' was'} read"
        )
        yield text if not each.followers else f"{text}: {each.advice}"
